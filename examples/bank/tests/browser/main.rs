//! The web application in a real browser: by keyboard, live without a reload, on a phone, light and dark.
//! `scripts/example-test` runs it where a browser is, and says so where none is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod driver;
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

use anyhow::{Result, ensure};
use driver::Browser;
use serde_json::Value;
use support::Bank;

/// Everything that could be hard to use on the present page, in words.
const FAULTS: &str = include_str!("faults.js");
const PAGES: [&str; 4] = ["/", "/accounts/1001", "/reactor", "/operations"];

async fn open(browser: &Browser, bank: &Bank, path: &str) -> Result<()> {
    Ok(browser.driver.goto(format!("http://{}{path}", bank.host())).await?)
}

/// Opens an account as somebody at the keyboard does.
async fn new_account(browser: &Browser, bank: &Bank, name: &str, country: &str, deposit: &str) -> Result<()> {
    open(browser, bank, "/").await?;
    browser.value("document.querySelector('details').open = true").await?;
    browser.fill("name", name).await?;
    let email = format!("{}@example.com", name.split(' ').next().unwrap_or_default().to_lowercase());
    browser.fill("email", &email).await?;
    browser.fill("country", country).await?;
    browser.fill("deposit", deposit).await?;
    browser.press("open").await?;
    browser.until(&format!("document.querySelector('h1').textContent === '{name}'")).await
}

/// Sends money, and waits until the page says so.
async fn transfer(
    browser: &Browser,
    bank: &Bank,
    [from, to]: [&str; 2],
    amount: &str,
    reference: &str,
) -> Result<()> {
    open(browser, bank, "/").await?;
    browser.fill("source", from).await?;
    browser.fill("target", to).await?;
    browser.fill("amount", amount).await?;
    browser.fill("reference", reference).await?;
    browser.press("send").await?;
    browser.until("document.querySelector('.good-news') !== null").await
}

/// The stations that the newest transfer has reached.
const REACHED: &str = "document.querySelectorAll('.journeys > li:first-child .reached').length";

#[tokio::test(flavor = "multi_thread")]
async fn people_can_use_it() -> Result<()> {
    let bank = tokio::task::spawn_blocking(|| Bank::open(&[])).await??;
    let browser = Browser::start().await?;
    browser.screen(1200, 900, "light").await?;

    for (name, country, deposit) in [
        ("Ada Marsh", "Germany", "25000"),
        ("Ben Osei", "France", "400"),
        ("Clara Nilsen", "Norway", "900"),
        ("Dario Vega", "Panama", "5000"),
    ] {
        new_account(&browser, &bank, name, country, deposit).await?;
    }
    a_transfer_is_followed_without_a_reload(&browser, &bank).await?;
    a_refusal_is_read_out(&browser, &bank).await?;
    transfer(&browser, &bank, ["Dario", "Ada"], "640", "Boat").await?;
    dead_letters_are_sent_again(&browser, &bank).await?;
    what_waits_is_shown(&browser, &bank).await?;
    every_page_is_easy_to_use(&browser, &bank).await?;
    browser.quit().await
}

async fn a_transfer_is_followed_without_a_reload(browser: &Browser, bank: &Bank) -> Result<()> {
    transfer(browser, bank, ["Ada", "Ben"], "25", "Rent").await?;
    browser.shows("Ada Marsh has sent 25.00 to Ben Osei.").await?;
    browser.until(&format!("{REACHED} === 4")).await?;
    // A page that somebody else has open learns of it.
    browser.value("document.body.setAttribute('data-same-page', '')").await?;
    let from_elsewhere = uuid::Uuid::new_v4().to_string();
    let answer = bank.transfer(&from_elsewhere, "1001", "1002", "13.50")?;
    ensure!(answer.status == 303, "{}", answer.body);
    browser.shows("438.50").await?;
    browser.until(&format!("{REACHED} === 4")).await?;
    browser.until("document.body.hasAttribute('data-same-page')").await
}

async fn a_refusal_is_read_out(browser: &Browser, bank: &Bank) -> Result<()> {
    open(browser, bank, "/").await?;
    browser.fill("source", "Ben").await?;
    browser.fill("target", "Ada").await?;
    browser.fill("amount", "9000").await?;
    browser.press("send").await?;
    browser.shows("Account 1002 has 438.50, which is too little.").await?;
    browser.until("document.activeElement.getAttribute('role') === 'alert'").await?;
    browser.until("document.getElementById('amount').value === '9000'").await?;
    browser.until("document.getElementById('source').value === '1002'").await
}

async fn dead_letters_are_sent_again(browser: &Browser, bank: &Bank) -> Result<()> {
    transfer(browser, bank, ["Clara", "Ben"], "45", "Dinner").await?;
    browser.shows("dead letter: no risk is known for country NO").await?;
    open(browser, bank, "/reactor").await?;
    browser.shows("after 5 attempts").await?;
    browser.picture("reactor").await?;
    browser.press("risk-NO").await?;
    browser.shows("Every transfer could be checked.").await
}

async fn what_waits_is_shown(browser: &Browser, bank: &Bank) -> Result<()> {
    open(browser, bank, "/operations").await?;
    browser.press("switch-kafka").await?;
    browser.until("document.getElementById('switch-kafka').textContent === 'Start Kafka'").await?;
    transfer(browser, bank, ["Ben", "Clara"], "12", "While Kafka is away").await?;
    browser.shows("waits in the outbox").await?;
    browser.picture("accounts-waiting").await?;
    open(browser, bank, "/operations").await?;
    browser.shows("On the way").await?;
    browser.picture("operations-waiting").await?;
    browser.press("switch-kafka").await?;
    browser.shows("The books agree").await?;
    browser.press("make-traffic").await?;
    browser.shows("decided anew").await?;
    browser.until("!document.querySelector('#traffic [data-unsettled]')").await?;
    browser.shows("The books agree").await?;
    // The focus outlives what comes live.
    browser.value("document.getElementById('switch-relay').focus()").await?;
    bank.succeed("/operations/relay", &[("on", "false")])?;
    browser.shows("Start the relay").await?;
    browser.until("document.activeElement.id === 'switch-relay'").await?;
    bank.succeed("/operations/relay", &[("on", "true")])?;
    browser.shows("Stop the relay").await
}

async fn every_page_is_easy_to_use(browser: &Browser, bank: &Bank) -> Result<()> {
    for (width, height, scheme) in
        [(1200, 1000, "light"), (1200, 1000, "dark"), (390, 844, "light"), (390, 844, "dark")]
    {
        browser.screen(width, height, scheme).await?;
        for page in PAGES {
            open(browser, bank, page).await?;
            browser
                .value("document.querySelector('details') && (document.querySelector('details').open = true)")
                .await?;
            let faults = browser.value(FAULTS.trim()).await?;
            ensure!(faults == Value::Array(Vec::new()), "{page}, {width} wide, {scheme}: {faults:#}");
            browser
                .value(
                    "document.querySelector('details') && (document.querySelector('details').open = false)",
                )
                .await?;
            let name = page.trim_matches('/').split('/').next().filter(|name| !name.is_empty());
            browser.picture(&format!("{}-{width}-{scheme}", name.unwrap_or("home"))).await?;
        }
    }
    Ok(())
}
