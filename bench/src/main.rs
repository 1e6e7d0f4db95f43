//! `make bench`: the extension, its peers and the limit, measured on one machine in one run.

mod arrival;
mod census;
mod compare;
mod contender;
mod events;
mod figures;
mod goals;
mod machine;
mod memory;
mod pace;
mod pgbench;
mod plot;
mod processes;
mod profile;
mod queue;
mod reader;
mod scenario;
mod stage;
mod tpcb;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use event_outbox_lab::progress::step;
use event_outbox_lab::{layout, process};

use crate::figures::Figures;
use crate::scenario::Bench;
use crate::stage::Stage;

fn main() -> ExitCode {
    process::exit_in_order_on_signals();
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !process::interrupted() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `event_outbox_bench [SCENARIO,…]` measures; `event_outbox_bench plot` draws the existing figures;
/// `event_outbox_bench compare DIRECTORY` compares the rounds of two builds.
fn bench() -> Result<()> {
    match (std::env::args().nth(1).as_deref(), std::env::args().nth(2)) {
        (Some("plot"), _) => {
            let out = scenario::out()?;
            return plot::draw(&Figures::read(&out.join("summary.json"))?, &out);
        }
        (Some("compare"), Some(results)) => return compare::report(Path::new(&results)),
        _ => {}
    }
    let chosen = scenario::chosen(&std::env::args().nth(1).unwrap_or_default())?;
    let quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| !value.is_empty() && value != "0");
    let whole = chosen.len() == scenario::ALL.len() && !quick;
    if whole {
        // Published figures must come from one run.
        fs::remove_dir_all(scenario::out()?)?;
    }
    let begin = Instant::now();
    let stage = step("starting PostgreSQL and Apache Kafka", Stage::start)?;
    let (rounds, inbox_events) = (number_in("BENCH_ROUNDS")?, number_in("BENCH_INBOX_EVENTS")?);
    let out = scenario::out()?;
    let mut bench = Bench { stage, figures: Figures::default(), quick, rounds, inbox_events };
    for scenario in &chosen {
        eprintln!("==> {}", scenario.name);
        let began = Instant::now();
        (scenario.run)(&mut bench).with_context(|| scenario.name)?;
        bench.figures.set(format!("{}.took_s", scenario.name), began.elapsed().as_secs_f64());
        // A run that is interrupted keeps the figures that it has.
        bench.figures.write(&out.join("summary.json"))?;
    }
    let Bench { stage, mut figures, .. } = bench;
    for (name, value) in machine::describe(&stage)? {
        figures.note(name, value);
    }
    drop(stage);
    figures.set("took_s", begin.elapsed().as_secs_f64());
    figures.note("quick", quick);
    if let Some(rounds) = rounds {
        figures.set("rounds", rounds as f64);
    }
    figures.write(&out.join("summary.json"))?;
    plot::draw(&figures, &out)?;
    let is_extreme = |key: &str| key.ends_with(".min") || key.ends_with(".max");
    for (key, value) in figures.iter().filter(|(key, value)| value.is_number() && !is_extreme(key)) {
        println!("{key:<44}{:>16}", goals::short(value.as_f64().unwrap_or(f64::NAN)));
    }
    goals::report(&figures);
    println!("\nall figures and plots: {}", out.display());
    if whole {
        publish(&out)?;
    }
    Ok(())
}

/// The number in an environment variable, if there is one and it is not 0.
fn number_in<T: FromStr + Default + PartialEq>(variable: &str) -> Result<Option<T>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let number = text.parse().map_err(|_| anyhow!("{variable} is not a number"))?;
    Ok(Some(number).filter(|number| *number != T::default()))
}

/// Copies the results of a complete run into the documentation.
fn publish(out: &Path) -> Result<()> {
    let published = layout::repository().join("docs/benchmarks");
    fs::create_dir_all(&published)?;
    for entry in fs::read_dir(out)? {
        let file = entry?;
        fs::copy(file.path(), published.join(file.file_name()))?;
    }
    println!("copied to {}", published.display());
    Ok(())
}
