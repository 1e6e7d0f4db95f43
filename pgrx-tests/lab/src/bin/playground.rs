//! `make up` and `make down`: start a PostgreSQL and a Kafka that keep running, and stop them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use event_outbox_lab::process::{self, Fate};
use event_outbox_lab::progress::step;
use event_outbox_lab::{Broker, Cluster, Result, layout, wait};
use serde_json::{Value, json};

const DATABASE: &str = "playground";
/// Another database, which has subscribed to the topic `orders`.
const SUBSCRIBER: &str = "subscriber";
const STOP_DEADLINE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match playground() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !process::interrupted() {
                eprintln!("\nerror: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn playground() -> Result<()> {
    let state = layout::lab()?.join("playground.json");
    match std::env::args().nth(1).as_deref() {
        Some("up") => up(&state),
        Some("down") => down(&state),
        _ => bail!("usage: playground up|down"),
    }
}

fn up(state: &Path) -> Result<()> {
    if let Some(text) = read(state, &layout::repository())? {
        if servers(&text).any(|server| server.is_running()) {
            print_commands(&text);
            return Ok(());
        }
        down(state)?;
    }
    process::exit_in_order_on_signals();
    let broker = step("starting Apache Kafka", || Broker::options().fate(Fate::CanStay).start())?;
    let cluster = step("starting PostgreSQL", || {
        let options = Cluster::options("playground").durable().fate(Fate::CanStay);
        options.set("event_outbox.bootstrap_servers", broker.bootstrap_servers()).start()
    })?;
    step("subscribing", || prepare(&cluster, &broker))?;

    let psql = format!(
        "{} -h {} -p {} -U postgres",
        layout::postgres_bin()?.join("psql").display(),
        cluster.socket_dir().display(),
        cluster.port()
    );
    let commands = json!({
        "psql": psql,
        "bootstrap": broker.bootstrap_servers(),
        "logs": [cluster.log_path(), broker.log_path()],
    });
    // From here on the state file, not this process, says what to stop.
    let (postgres, postgres_directories) = cluster.leave()?;
    let (kafka, kafka_directory) = broker.leave()?;
    let text = json!({
        "state": state,
        "checkout": layout::repository(),
        "commands": commands,
        "servers": [
            {"name": "PostgreSQL", "pid": postgres, "started": started(postgres), "signal": libc::SIGINT,
             "directories": postgres_directories},
            {"name": "Apache Kafka", "pid": kafka, "started": started(kafka), "signal": libc::SIGTERM,
             "directories": [kafka_directory]},
        ],
    });
    fs::write(state, serde_json::to_string_pretty(&text)?)?;
    print_commands(&text);
    Ok(())
}

/// Creates a database to emit from, and one that receives.
fn prepare(cluster: &Cluster, broker: &Broker) -> Result<()> {
    broker.create_topic("orders", 1, &[])?;
    for database in [DATABASE, SUBSCRIBER] {
        cluster.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {database}"))?;
        cluster.connect(database)?.batch_execute("CREATE EXTENSION event_outbox")?;
    }
    let subscribe = "SELECT inbox.subscribe('orders', ARRAY['orders'], 'earliest')";
    Ok(cluster.connect(SUBSCRIBER)?.batch_execute(subscribe)?)
}

fn down(state: &Path) -> Result<()> {
    let Some(text) = read(state, &layout::repository())? else {
        println!("nothing is up");
        return Ok(());
    };
    for server in servers(&text) {
        step(&format!("stopping {}", server.name), || server.stop())?;
    }
    Ok(fs::remove_file(state)?)
}

/// The playground that is up, according to the file that `up` wrote. A checkout may be copied with the file in it, or
/// with a link to it: then the servers belong to the original, and the copy has none.
fn read(state: &Path, checkout: &Path) -> Result<Option<Value>> {
    let Ok(text) = fs::read_to_string(state) else { return Ok(None) };
    let text: Value = serde_json::from_str(&text)?;
    let is = |name: &str, path: &Path| text[name].as_str().map(Path::new) == Some(path);
    if is("checkout", checkout) && is("state", state) {
        return Ok(Some(text));
    }
    ensure!(
        !is("state", state) || !servers(&text).any(|server| server.is_running()),
        "{} is where the playground of {} is up: make down there first",
        state.display(),
        text["checkout"]
    );
    Ok(None)
}

struct Server {
    name: String,
    pid: u32,
    started: Value,
    signal: i32,
    directories: Vec<PathBuf>,
}

fn servers(state: &Value) -> impl Iterator<Item = Server> {
    let list = state["servers"].as_array().cloned().unwrap_or_default();
    list.into_iter().filter_map(|server| {
        Some(Server {
            name: server["name"].as_str()?.into(),
            pid: u32::try_from(server["pid"].as_u64()?).ok()?,
            started: server["started"].clone(),
            signal: i32::try_from(server["signal"].as_i64()?).ok()?,
            directories: server["directories"]
                .as_array()?
                .iter()
                .filter_map(|d| Some(d.as_str()?.into()))
                .collect(),
        })
    })
}

impl Server {
    /// Whether the process of that id is still the one we started.
    fn is_running(&self) -> bool {
        let started = started(self.pid);
        started.is_some() && json!(started) == self.started
    }

    fn stop(&self) -> Result<()> {
        if self.is_running() {
            process::send(self.pid, self.signal)?;
            let what = format!("the end of {}", self.name);
            wait::until(&what, STOP_DEADLINE, || (!self.is_running()).then_some(()))?;
        }
        for directory in self.directories.iter().filter(|directory| directory.exists()) {
            fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        ensure!(!self.is_running(), "{} is still running", self.name);
        Ok(())
    }
}

/// When a process started, in clock ticks since boot: with the pid it names a process for good.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold spaces; the state follows, 19 fields on is the start.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

fn print_commands(state: &Value) {
    let text = |pointer: &str| state.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
    let bootstrap = text("/commands/bootstrap");
    let class_path = layout::kafka_class_path().unwrap_or_default();
    println!(
        "
PostgreSQL:   {psql} {DATABASE}
emit:         SELECT outbox.emit('orders', '{{\"id\": 7}}', key => '7');
subscriber:   {psql} {SUBSCRIBER}
receive:      SELECT topic, convert_from(key, 'UTF8') AS key, data FROM inbox.receive('orders');
consume:      java -cp '{class_path}' org.apache.kafka.tools.consumer.ConsoleConsumer \\
                --bootstrap-server {bootstrap} --topic orders --from-beginning \\
                --formatter-property print.key=true --formatter-property print.headers=true
or, with kcat: kcat -C -b {bootstrap} -t orders -f '%k %s\\n%h\\n'
logs:         {log0}
              {log1}
stop:         make down",
        psql = text("/commands/psql"),
        log0 = text("/commands/logs/0"),
        log1 = text("/commands/logs/1"),
    );
}

#[cfg(test)]
mod tests {
    use event_outbox_lab::scratch::Scratch;

    use super::*;

    #[test]
    fn a_copied_checkout_knows_nothing_of_the_originals_servers() -> Result<()> {
        let lab = Scratch::new("playground", Fate::default())?;
        let [original, copy] = ["a", "b"].map(|name| lab.path().join(name));
        let [state, copied] = ["a.json", "b.json"].map(|name| lab.path().join(name));
        let running = std::process::id();
        let server = json!({"name": "this", "pid": running, "started": started(running), "signal": 15, "directories": []});
        let up = json!({"state": state, "checkout": original, "servers": [server]});
        fs::write(&state, up.to_string())?;
        fs::copy(&state, &copied)?;
        assert!(read(&state, &original)?.is_some());
        assert!(read(&copied, &copy)?.is_none());
        // The same file, by a link.
        assert!(read(&state, &copy).is_err());
        assert!(read(&lab.path().join("none.json"), &copy)?.is_none());
        Ok(())
    }
}
