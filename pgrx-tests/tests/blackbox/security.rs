//! The way to Kafka is secured: TLS, passwords, client certificates, rights. One broker has a listener for
//! each kind; what a relay brings along stands in its properties file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::anyhow;
use event_outbox_tests::{Authority, Broker, Consumer, Result, run_as, wait};

use crate::relay::{Status, status, until_drained, until_status};
use crate::stage::{DEADLINE, Stage, emit};

/// Listeners: TLS; TLS with the certificate of another host; TLS with a client certificate; passwords over TLS.
const TLS: &str = "TLS";
const IMPOSTOR: &str = "IMPOSTOR";
const MUTUAL: &str = "MUTUAL";
const PASSWORD: &str = "PASSWORD";

const SHOP_PASSWORD: &str = "correct-horse";
const CLERK_PASSWORD: &str = "clerks-own";
const WRONG_PASSWORD: &str = "battery-staple";

/// A broker, and who vouches for it.
struct Fortress {
    broker: Broker,
    authority: Authority,
}

fn fortress() -> Result<&'static Fortress> {
    static SHARED: OnceLock<Result<Fortress>> = OnceLock::new();
    SHARED.get_or_init(build).as_ref().map_err(|error| anyhow!("no secured broker: {error:#}"))
}

fn build() -> Result<Fortress> {
    let authority = Authority::new("lab")?;
    let pem = |path: &Path| path.display().to_string();
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required \
         user_shop=\"{SHOP_PASSWORD}\" user_clerk=\"{CLERK_PASSWORD}\";"
    );
    let broker = Broker::options()
        .listener(TLS, "SSL")
        .listener(IMPOSTOR, "SSL")
        .listener(MUTUAL, "SSL")
        .listener(PASSWORD, "SASL_SSL")
        .set("ssl.keystore.type", "PEM")
        .set("ssl.keystore.location", pem(&authority.issue("localhost")?))
        .set("ssl.truststore.type", "PEM")
        .set("ssl.truststore.location", pem(&authority.certificate()))
        .set("listener.name.impostor.ssl.keystore.location", pem(&authority.issue("impostor.example")?))
        .set("listener.name.impostor.ssl.keystore.type", "PEM")
        .set("listener.name.mutual.ssl.client.auth", "required")
        .set("listener.name.password.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512")
        .set("listener.name.password.plain.sasl.jaas.config", plain)
        .set(
            "listener.name.password.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        )
        .scram_user("shop", SHOP_PASSWORD)
        .set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        .set("allow.everyone.if.no.acl.found", "true")
        .set("super.users", "User:ANONYMOUS")
        .start()?;
    Ok(Fortress { broker, authority })
}

/// What a client needs to trust the broker.
fn trust(authority: &Authority) -> String {
    format!("security.protocol=ssl\nssl.ca.location={}\n", authority.certificate().display())
}

/// What a client needs to be known by a password.
fn login(mechanism: &str, user: &str, password: &str) -> Result<String> {
    Ok(format!(
        "{}security.protocol=sasl_ssl\nsasl.mechanism={mechanism}\nsasl.username={user}\nsasl.password={password}\n",
        trust(&fortress()?.authority)
    ))
}

/// A database whose relay goes to the secured broker, with what its properties file holds.
struct Visitor {
    stage: Stage,
    broker: &'static Broker,
    topic: String,
    file: PathBuf,
}

impl Visitor {
    fn new(listener: &str, properties: &str) -> Result<Self> {
        let broker = &fortress()?.broker;
        let stage = Stage::new()?;
        let file = stage.server.data_dir().join(format!("{}.properties", stage.database));
        let mut visitor = Self { topic: stage.topic("secured"), stage, broker, file };
        visitor.write(properties)?;
        let file = visitor.file.display().to_string();
        visitor.stage.configure("event_outbox.kafka_properties_file", &file)?;
        visitor.go_to(listener)?;
        Ok(visitor)
    }

    fn go_to(&mut self, listener: &str) -> Result<()> {
        let servers = self.broker.bootstrap_servers_by(listener)?;
        self.stage.configure("event_outbox.bootstrap_servers", &servers)
    }

    fn write(&self, properties: &str) -> Result<()> {
        fs::write(&self.file, properties)?;
        run_as::give_to_server(&self.file)
    }

    /// Corrects the file and has it read.
    fn correct(&self, properties: &str) -> Result<()> {
        self.write(properties)?;
        self.stage.server.reload()
    }

    fn emit(&mut self, numbers: std::ops::RangeInclusive<i32>) -> Result<()> {
        for number in numbers {
            emit(&mut self.stage.client, &self.topic, number)?;
        }
        Ok(())
    }

    /// Waits until exactly the events up to `last` have arrived.
    fn until_arrived(&mut self, last: usize) -> Result<()> {
        until_drained(&mut self.stage.client)?;
        let mut arrived = self.arrived()?;
        arrived.sort();
        let emitted: Vec<_> = (1..=last).map(|number| number.to_string()).collect();
        assert_eq!(arrived, emitted);
        assert!(status(&mut self.stage.client)?.is_connected());
        Ok(())
    }

    fn arrived(&self) -> Result<Vec<String>> {
        Ok(crate::stage::values(&Consumer::read_all(&self.broker.bootstrap_servers(), &[&self.topic])?))
    }

    /// Waits until the status tells in these words that there is no way to Kafka; nothing has gone there, and no
    /// event is blamed.
    fn until_turned_away(&mut self, words: &str) -> Result<Status> {
        let client = &mut self.stage.client;
        let seen = until_status(client, &format!("to be turned away with \"{words}\""), |status| {
            status.is_disconnected() && status.error().contains(words)
        })?;
        let row = client.query_one("SELECT count(*), max(attempts) FROM outbox.events", &[])?;
        assert!(row.get::<_, i64>(0) > 0);
        assert_eq!((row.get::<_, Option<i32>>(1), seen.refused), (Some(0), 0));
        assert!(self.arrived()?.is_empty());
        Ok(seen)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

#[test]
fn an_authority_that_is_not_the_brokers() -> Result<()> {
    let stranger = Authority::new("stranger")?;
    let mut visitor = Visitor::new(TLS, &trust(&stranger))?;
    visitor.emit(1..=3)?;
    visitor.until_turned_away("certificate verify failed")?;
    visitor.correct(&trust(&fortress()?.authority))?;
    visitor.emit(4..=5)?;
    visitor.until_arrived(5)
}

/// The broker's certificate is genuine, but another host's.
#[test]
fn a_certificate_for_another_host() -> Result<()> {
    let trusting = trust(&fortress()?.authority);
    let mut visitor = Visitor::new(IMPOSTOR, &trusting)?;
    visitor.emit(1..=2)?;
    visitor.until_turned_away("certificate verify failed")?;
    // Nothing else was wrong with it.
    visitor.correct(&format!("{trusting}ssl.endpoint.identification.algorithm=none\n"))?;
    visitor.until_arrived(2)
}

#[test]
fn a_client_certificate() -> Result<()> {
    let authority = &fortress()?.authority;
    let mut visitor = Visitor::new(MUTUAL, &trust(authority))?;
    visitor.emit(1..=2)?;
    visitor.until_turned_away("certificate")?;
    let own = authority.issue("shop.example")?;
    let shown = format!("ssl.certificate.location={0}\nssl.key.location={0}\n", own.display());
    visitor.correct(&(trust(authority) + &shown))?;
    visitor.until_arrived(2)
}

/// A password that is wrong at first, and never told to anyone.
fn a_password(mechanism: &str) -> Result<()> {
    let mut visitor = Visitor::new(PASSWORD, &login(mechanism, "shop", WRONG_PASSWORD)?)?;
    visitor.stage.alter_database("SET log_min_messages = 'debug1'")?;
    visitor.emit(1..=2)?;
    visitor.until_turned_away("uthentication failed")?;
    visitor.correct(&login(mechanism, "shop", SHOP_PASSWORD)?)?;
    visitor.emit(3..=3)?;
    visitor.until_arrived(3)?;

    let log = visitor.stage.server.log();
    assert!(log.contains("uthentication failed"));
    let all: String = visitor.stage.client.query_one("SELECT s::text FROM outbox.status AS s", &[])?.get(0);
    for password in [WRONG_PASSWORD, SHOP_PASSWORD] {
        let leak = log.lines().chain([all.as_str()]).find(|line| line.contains(password));
        assert!(leak.is_none(), "{leak:?}");
    }
    Ok(())
}

#[test]
fn a_password_by_scram() -> Result<()> {
    a_password("SCRAM-SHA-512")
}

#[test]
fn a_password_in_plain() -> Result<()> {
    a_password("PLAIN")
}

/// The events of a topic on which the user may not do this are refused, and no others.
fn forbidden(operations: &[&str]) -> Result<()> {
    let mut clerk = Visitor::new(PASSWORD, &login("PLAIN", "clerk", CLERK_PASSWORD)?)?;
    clerk.stage.configure("event_outbox.max_attempts", "1")?;
    let closed = clerk.stage.topic("closed");
    clerk.broker.create_topic(&closed, 1, &[])?;
    clerk.broker.forbid("clerk", operations, &closed)?;
    clerk.emit(1..=1)?;
    let refused = emit(&mut clerk.stage.client, &closed, 7)?;
    clerk.emit(2..=2)?;
    let class = wait::until_ok("the refusal", DEADLINE, || {
        let sql = "SELECT error_class FROM outbox.dead_letters WHERE event_id = $1";
        Ok(clerk.stage.client.query_opt(sql, &[&refused])?.map(|row| row.get::<_, String>(0)))
    })?;
    assert_eq!(class, "not_authorized");
    clerk.until_arrived(2)?;

    // Another user may.
    clerk.correct(&login("SCRAM-SHA-512", "shop", SHOP_PASSWORD)?)?;
    clerk.stage.client.query_one("SELECT outbox.redrive($1)", &[&refused])?;
    clerk.topic = closed;
    until_drained(&mut clerk.stage.client)?;
    assert_eq!(clerk.arrived()?, ["7"]);
    Ok(())
}

#[test]
fn a_topic_that_the_user_may_not_write_to() -> Result<()> {
    forbidden(&["Write"])
}

#[test]
fn a_topic_that_the_user_may_not_even_see() -> Result<()> {
    forbidden(&["Write", "Describe"])
}
