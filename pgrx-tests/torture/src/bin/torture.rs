//! `make torture`: the torture test from the command line.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use event_outbox_lab::{Result, process};
use event_outbox_torture::{Mode, Options};

fn main() -> ExitCode {
    process::exit_in_order_on_signals();
    match options().and_then(|options| {
        println!("SEED={} MODE={:?}", options.seed, options.mode);
        event_outbox_torture::run(&options)
    }) {
        Ok(report) => {
            println!("{report}");
            if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            if !process::interrupted() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Parses `torture MINUTES kafka|cluster|mock|once|exactly [SEED [FAULTS]]`. `once` is delivery at most once,
/// `exactly` exactly once. The default seed is the time. FAULTS are words, separated by
/// commas: only faults whose names contain one of them are inflicted.
fn options() -> Result<Options> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [minutes, mode, more @ ..] = &args[..] else {
        bail!("usage: torture MINUTES kafka|cluster|mock|once|exactly [SEED [FAULTS]]");
    };
    let minutes: f64 = minutes.parse().context("MINUTES")?;
    let delivery = mode.clone();
    let mode = match &**mode {
        "kafka" => Mode::Kafka,
        "cluster" => Mode::Cluster,
        "mock" => Mode::Mock,
        "once" | "exactly" => Mode::Cluster,
        other => bail!("MODE is kafka, cluster, mock, once or exactly, not {other}"),
    };
    let seed = match more.first().filter(|seed| !seed.is_empty()) {
        Some(seed) => seed.parse().context("SEED")?,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let duration = Duration::try_from_secs_f64(minutes * 60.0)?;
    let mut options = match &*delivery {
        "once" => Options::at_most_once(duration, seed),
        "exactly" => Options::exactly_once(duration, seed),
        _ => Options::new(mode, duration, seed),
    };
    if let Some(faults) = more.get(1) {
        options.faults.retain(|fault| {
            let name = fault.to_string();
            faults.split(',').any(|part| name.contains(part))
        });
    }
    Ok(options)
}
