//! `make example`: starts the bank with servers of its own, prints its address, and stops when it is told to.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use event_outbox_bank::stage::Stage;
use event_outbox_bank::web;
use event_outbox_lab::process;
use tokio::net::TcpListener;

/// The port of the address that is printed, unless another is asked for.
const PORT: u16 = 8080;

struct Arguments {
    port: u16,
    /// After how long it stops by itself.
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    process::exit_in_order_on_signals();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !process::interrupted() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = arguments(std::env::args().skip(1))?;
    let stage = Arc::new(Stage::start()?);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(serve(stage, arguments))
}

async fn serve(stage: Arc<Stage>, arguments: Arguments) -> Result<()> {
    let address = ("127.0.0.1", arguments.port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on port {}: choose another with PORT=…, or 0 for any", arguments.port)
    })?;
    let port = listener.local_addr()?.port();
    println!("\nThe bank is open: http://127.0.0.1:{port}/\n{}", stage.commands());
    let end = async move {
        match arguments.seconds {
            Some(seconds) => {
                println!("It closes by itself in {seconds} seconds.");
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            None => {
                println!("It closes with Ctrl-C.");
                std::future::pending().await
            }
        }
    };
    tokio::select! {
        served = web::serve(listener, stage) => served,
        () = end => Ok(()),
    }
}

/// `[--port N] [--seconds N]`.
fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments { port: PORT, seconds: None };
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a number"))?;
        match name.as_str() {
            "--port" => arguments.port = value.parse().with_context(|| format!("--port {value}"))?,
            "--seconds" => {
                arguments.seconds = Some(value.parse().with_context(|| format!("--seconds {value}"))?);
            }
            _ => bail!("usage: bank [--port N] [--seconds N]"),
        }
    }
    Ok(arguments)
}
