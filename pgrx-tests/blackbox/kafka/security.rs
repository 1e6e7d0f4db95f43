//! Secured connections to Kafka: TLS, passwords, client certificates, privileges. One broker has a listener for each kind;
//! the relay's credentials are in its properties file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::anyhow;
use event_outbox_lab::{Authority, Broker, Consumer, IdentityProvider, Result, identity, run_as};

use crate::support::database::{TestDatabase, values};
use crate::support::events::emit;
use crate::support::relay::{Status, check_relay, status, until_drained, until_status};

/// Listeners: TLS; TLS with the certificate of another host; TLS with a client certificate; passwords and tokens
/// over TLS.
const TLS: &str = "TLS";
const IMPOSTOR: &str = "IMPOSTOR";
const MUTUAL: &str = "MUTUAL";
const PASSWORD: &str = "PASSWORD";

const SHOP_PASSWORD: &str = "correct-horse";
const CLERK_PASSWORD: &str = "clerks-own";
const WRONG_PASSWORD: &str = "battery-staple";

/// A broker and the authority of its certificates.
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
        .set("listener.name.password.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-512,OAUTHBEARER")
        .set("listener.name.password.plain.sasl.jaas.config", plain)
        .set(
            "listener.name.password.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        )
        // A broker without a configured identity provider accepts unsigned tokens.
        .set(
            "listener.name.password.oauthbearer.sasl.jaas.config",
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        )
        .scram_user("shop", SHOP_PASSWORD)
        .set("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
        // Anonymous clients are the lab itself, and those of listeners without authentication.
        .set("super.users", "User:ANONYMOUS;User:shop;User:CN=shop.example")
        .start()?;
    Ok(Fortress { broker, authority })
}

/// The properties by which a client trusts the broker.
fn trust(authority: &Authority) -> String {
    format!("security.protocol=ssl\nssl.ca.location={}\n", authority.certificate().display())
}

/// The properties of a login by password.
fn login(mechanism: &str, user: &str, password: &str) -> Result<String> {
    Ok(format!(
        "{}security.protocol=sasl_ssl\nsasl.mechanism={mechanism}\nsasl.username={user}\nsasl.password={password}\n",
        trust(&fortress()?.authority)
    ))
}

/// A database whose relay connects to the secured broker, and its properties file.
struct Visitor {
    db: TestDatabase,
    broker: &'static Broker,
    topic: String,
    file: PathBuf,
}

impl Visitor {
    fn new(listener: &str, properties: &str) -> Result<Self> {
        let broker = &fortress()?.broker;
        let db = TestDatabase::new()?;
        let file = db.server.data_dir().join(format!("{}.properties", db.database));
        let mut visitor = Self { topic: db.topic("secured"), db, broker, file };
        visitor.write(properties)?;
        let file = visitor.file.display().to_string();
        visitor.db.configure("event_outbox.kafka_properties_file", &file)?;
        // With librdkafka's debug lines.
        visitor.db.configure("log_min_messages", "debug1")?;
        visitor.db.configure("event_outbox.bootstrap_servers", &broker.bootstrap_servers_by(listener)?)?;
        Ok(visitor)
    }

    fn write(&self, properties: &str) -> Result<()> {
        fs::write(&self.file, properties)?;
        run_as::give_to_server(&self.file)
    }

    /// Corrects the file, reloads it, and waits for the new producer.
    fn correct(&mut self, properties: &str) -> Result<()> {
        let before = status(&mut self.db.client)?.connection_since;
        self.write(properties)?;
        self.db.server.reload()?;
        let client = &mut self.db.client;
        until_status(client, "another producer", |status| status.connection_since != before)?;
        Ok(())
    }

    fn emit(&mut self, numbers: std::ops::RangeInclusive<i32>) -> Result<()> {
        for number in numbers {
            emit(&mut self.db.client, &self.topic, number)?;
        }
        Ok(())
    }

    /// Waits until exactly the events up to `last` have arrived.
    fn until_arrived(&mut self, last: usize) -> Result<()> {
        until_drained(&mut self.db.client)?;
        let mut arrived = self.arrived()?;
        arrived.sort();
        let emitted: Vec<_> = (1..=last).map(|number| number.to_string()).collect();
        assert_eq!(arrived, emitted);
        until_status(&mut self.db.client, "the connection", Status::is_connected)?;
        Ok(())
    }

    fn arrived(&self) -> Result<Vec<String>> {
        Ok(values(&Consumer::read_all(&self.broker.bootstrap_servers(), &[&self.topic])?))
    }

    /// Waits until the status shows in these words that Kafka refuses the connection. Nothing has been published, and no
    /// event is charged.
    fn until_turned_away(&mut self, words: &str) -> Result<Status> {
        let client = &mut self.db.client;
        let seen = until_status(client, &format!("to be turned away with \"{words}\""), |status| {
            status.is_disconnected() && status.error().contains(words)
        })?;
        let row = client.query_one("SELECT count(*), max(attempts) FROM outbox.events", &[])?;
        assert!(row.get::<_, i64>(0) > 0);
        assert_eq!((row.get::<_, Option<i32>>(1), seen.refused), (Some(0), 0));
        assert!(self.arrived()?.is_empty());
        Ok(seen)
    }

    /// Neither the status nor the log contains a secret, though the log has the error that was shown.
    fn assert_hidden(&mut self, secrets: &[&str], refused: &Status) -> Result<()> {
        let log = self.db.server.log();
        assert!(log.contains(refused.error()), "{refused:?}");
        let sql = "SELECT s::text FROM outbox.status AS s";
        let shown: String = self.db.client.query_one(sql, &[])?.get(0);
        for line in log.lines().chain([shown.as_str()]) {
            assert!(!secrets.iter().any(|secret| line.contains(secret)), "{line}");
        }
        Ok(())
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

/// The broker's certificate is valid, but for another host.
#[test]
fn a_certificate_for_another_host() -> Result<()> {
    let trusting = trust(&fortress()?.authority);
    let mut visitor = Visitor::new(IMPOSTOR, &trusting)?;
    visitor.emit(1..=2)?;
    visitor.until_turned_away("certificate verify failed")?;
    // Nothing else was wrong.
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

/// The password is wrong at first, and never shown.
fn a_password(mechanism: &str) -> Result<()> {
    let mut visitor = Visitor::new(PASSWORD, &login(mechanism, "shop", WRONG_PASSWORD)?)?;
    visitor.emit(1..=2)?;
    let refused = visitor.until_turned_away("uthentication failed")?;
    visitor.correct(&login(mechanism, "shop", SHOP_PASSWORD)?)?;
    visitor.emit(3..=3)?;
    visitor.until_arrived(3)?;
    visitor.assert_hidden(&[WRONG_PASSWORD, SHOP_PASSWORD], &refused)
}

#[test]
fn a_password_by_scram() -> Result<()> {
    a_password("SCRAM-SHA-512")
}

#[test]
fn a_password_in_plain() -> Result<()> {
    a_password("PLAIN")
}

/// librdkafka fetches tokens from an identity provider.
#[test]
fn a_token() -> Result<()> {
    let provider = IdentityProvider::start()?;
    let (client, secret) = identity::CLIENT;
    let properties = |secret: &str| {
        anyhow::Ok(format!(
            "{}security.protocol=sasl_ssl\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=oidc\n\
             sasl.oauthbearer.client.id={client}\nsasl.oauthbearer.client.secret={secret}\n\
             sasl.oauthbearer.token.endpoint.url={}\n",
            trust(&fortress()?.authority),
            provider.token_url()
        ))
    };
    let mut visitor = Visitor::new(PASSWORD, &properties(WRONG_PASSWORD)?)?;
    visitor.emit(1..=2)?;
    let refused = visitor.until_turned_away("token")?;
    visitor.correct(&properties(secret)?)?;
    visitor.until_arrived(2)?;
    visitor.assert_hidden(&[WRONG_PASSWORD, secret], &refused)
}

/// A Kafka user needs only the right to write. Without it, only the events of that topic are refused, whether or not the
/// user can see the topic.
#[test]
fn rights() -> Result<()> {
    let mut clerk = Visitor::new(PASSWORD, &login("PLAIN", "clerk", CLERK_PASSWORD)?)?;
    clerk.db.configure("event_outbox.max_attempts", "1")?;
    let (seen, unseen) = (clerk.db.topic("seen"), clerk.db.topic("unseen"));
    for topic in [&clerk.topic, &seen, &unseen] {
        clerk.broker.create_topic(topic, 1, &[])?;
    }
    clerk.broker.allow("clerk", "Write", &clerk.topic)?;
    clerk.broker.allow("clerk", "Describe", &seen)?;
    clerk.emit(1..=1)?;
    for topic in [&seen, &unseen] {
        emit(&mut clerk.db.client, topic, 7)?;
    }
    clerk.emit(2..=2)?;
    clerk.until_arrived(2)?;
    let sql = "SELECT topic, error_class FROM outbox.dead_letters ORDER BY topic";
    let dead: Vec<(String, String)> =
        clerk.db.client.query(sql, &[])?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let class = "not_authorized".to_string();
    assert_eq!(dead, [(seen.clone(), class.clone()), (unseen.clone(), class)]);

    // Another user has the right.
    clerk.correct(&login("SCRAM-SHA-512", "shop", SHOP_PASSWORD)?)?;
    clerk.db.client.query_one("SELECT outbox.redrive(since => '-infinity')", &[])?;
    for topic in [seen, unseen] {
        clerk.topic = topic;
        until_drained(&mut clerk.db.client)?;
        assert_eq!(clerk.arrived()?, ["7"]);
    }
    Ok(())
}

/// Transactions need a right of their own. Without it nothing is published, and the check says what to type.
#[test]
fn the_right_to_a_transactional_id() -> Result<()> {
    let mut clerk = Visitor::new(PASSWORD, &login("PLAIN", "clerk", CLERK_PASSWORD)?)?;
    let progress = clerk.db.topic("progress");
    clerk.broker.create_topic(&clerk.topic, 1, &[])?;
    clerk.broker.create_topic(&progress, 1, &[("cleanup.policy", "compact")])?;
    clerk.broker.allow("clerk", "Write", &clerk.topic)?;
    for operation in ["Read", "Write", "DescribeConfigs"] {
        clerk.broker.allow("clerk", operation, &progress)?;
    }
    clerk.db.configure("event_outbox.progress_topic", &progress)?;
    clerk.db.configure("event_outbox.delivery", "exactly_once")?;
    clerk.emit(1..=1)?;
    let error = clerk.db.until_state("waiting")?;
    assert!(error.contains("transactional id \"event_outbox-"), "{error}");
    let (verdict, hint) = check_relay(&mut clerk.db.client)?;
    assert_eq!(verdict, "error");
    let rights = ["Write", "Describe"];
    for part in ["kafka-acls --add", "--transactional-id event_outbox- --resource-pattern-type prefixed"] {
        assert!(hint.contains(part), "{hint}");
    }
    assert!(rights.iter().all(|right| hint.contains(&format!("--operation {right}"))), "{hint}");
    for right in rights {
        clerk.broker.allow_transactions("clerk", right, "event_outbox-")?;
    }
    clerk.until_arrived(1)
}
