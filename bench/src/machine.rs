//! Describes the machine and the versions of a run.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::Result;
use event_outbox_lab::{connect, layout};

use crate::contender::debezium;
use crate::stage::{OURS, Stage};

/// The machine, and the versions of all programs that took part.
pub fn describe(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let mut found = stage.settings()?;
    let mut add = |key: &str, value: String| found.insert(key.to_string(), value);
    add("machine", machine());
    let mut client = stage.connect(OURS)?;
    add("version.postgresql", client.query_one("SHOW server_version", &[])?.get(0));
    let sql = "SELECT extversion FROM pg_extension WHERE extname = 'event_outbox'";
    add("version.event_outbox", client.query_one(sql, &[])?.get(0));
    add(
        "version.commit",
        said_by(
            "git",
            &["-C", &layout::repository().display().to_string(), "describe", "--always", "--dirty"],
        ),
    );
    add("version.librdkafka", rdkafka::util::get_rdkafka_version().1);
    add("version.kafka", version_in("pgrx-tests/lab/kafka/pom.xml", "kafka.version"));
    add("version.debezium", version_in("pgrx-tests/lab/debezium/pom.xml", "debezium.version"));
    add("version.java", said_by("java", &["--version"]));
    add("setting.connect.java", connect::JAVA.join(" "));
    for (name, value) in debezium::TUNING {
        add(&format!("setting.debezium.{name}"), value.into());
    }
    Ok(found)
}

/// Processors, memory, kernel.
fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(|| "unknown".into(), |(_, value)| value.trim().to_string())
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory =
        value(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
    format!(
        "{processors} x {}, {} GB, Linux {}",
        value(&read("/proc/cpuinfo"), "model name"),
        (memory as f64 * 1024.0 / 1e9).round(),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The first line that a program prints.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).into_owned());
    text.lines().next().unwrap_or("unknown").to_string()
}

/// A property of one of the project's poms.
fn version_in(pom: &str, property: &str) -> String {
    let text = fs::read_to_string(layout::repository().join(pom)).unwrap_or_default();
    let rest = text.split_once(&format!("<{property}>")).map(|(_, rest)| rest);
    rest.and_then(|rest| rest.split('<').next()).unwrap_or("unknown").to_string()
}
