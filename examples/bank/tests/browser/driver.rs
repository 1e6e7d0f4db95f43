//! A real browser, driven by its WebDriver.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use event_outbox_lab::process::{Fate, Process};
use event_outbox_lab::scratch::Scratch;
use event_outbox_lab::{ports, wait};
use serde_json::{Value, json};
use thirtyfour::prelude::*;

const START: Duration = Duration::from_secs(60);
const SHOWN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Chromium with its driver. Dropping it ends both.
pub struct Browser {
    /// The driver's session.
    pub driver: WebDriver,
    _process: Process,
    _output: Scratch,
}

impl Browser {
    /// Starts a browser without a window.
    pub async fn start() -> Result<Self> {
        let port = ports::free()?;
        let output = Scratch::new("chromedriver", Fate::DiesWithUs)?;
        let log = File::create(output.path().join("log"))?;
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let process = Process::spawn(command, libc::SIGTERM, Fate::DiesWithUs)?;
        wait::until("chromedriver to answer", START, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })?;
        let mut wanted = DesiredCapabilities::chrome();
        // The sandbox refuses root; the pages are our own.
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ] {
            wanted.add_arg(argument)?;
        }
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await?;
        Ok(Self { driver, _process: process, _output: output })
    }

    /// Ends the session.
    pub async fn quit(self) -> Result<()> {
        Ok(self.driver.quit().await?)
    }

    /// The size of the screen in CSS pixels, and whether it is a phone's; light or dark.
    pub async fn screen(&self, width: u32, height: u32, scheme: &str) -> Result<()> {
        let is_phone = width < 500;
        let scale = if is_phone { 2 } else { 1 };
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await?;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<()> {
        self.driver.cdp().send_raw(command, parameters).await.with_context(|| command.to_owned())?;
        Ok(())
    }

    /// The value of an expression in JavaScript.
    pub async fn value(&self, expression: &str) -> Result<Value> {
        let answer = self.driver.execute(format!("return {expression};"), Vec::new()).await;
        Ok(answer.with_context(|| expression.to_owned())?.json().clone())
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) -> Result<()> {
        let begin = Instant::now();
        while self.value(expression).await? != Value::Bool(true) {
            if begin.elapsed() > SHOWN {
                bail!("timed out waiting for {expression}; the page shows\n{}", self.text().await?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until the page shows a text.
    pub async fn shows(&self, text: &str) -> Result<()> {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await
    }

    /// What the page shows.
    pub async fn text(&self) -> Result<String> {
        Ok(self.value("document.body.innerText").await?.as_str().unwrap_or_default().to_owned())
    }

    /// The element with this id.
    pub async fn element(&self, id: &str) -> Result<WebElement> {
        self.driver.find(By::Id(id)).await.with_context(|| format!("no element {id}"))
    }

    /// Types into the field with this id, in place of what is there.
    pub async fn fill(&self, id: &str, text: &str) -> Result<()> {
        let field = self.element(id).await?;
        if field.tag_name().await? == "input" {
            field.clear().await?;
        }
        Ok(field.send_keys(text).await?)
    }

    /// Presses a button by the keyboard alone.
    pub async fn press(&self, id: &str) -> Result<()> {
        self.value(&format!("document.getElementById({}).focus()", json!(id))).await?;
        let focused = self.value("document.activeElement.id").await?;
        ensure!(focused == id, "{id} takes no focus: {focused} has it");
        Ok(self.driver.active_element().await?.send_keys(Key::Enter + "").await?)
    }

    /// Saves a picture, if a directory for it is named by `BANK_SCREENSHOTS`.
    pub async fn picture(&self, name: &str) -> Result<()> {
        if let Some(directory) = std::env::var_os("BANK_SCREENSHOTS") {
            self.driver.screenshot(&Path::new(&directory).join(format!("{name}.png"))).await?;
        }
        Ok(())
    }
}
