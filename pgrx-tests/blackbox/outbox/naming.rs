//! The naming convention: at emit, if asked, and `outbox.lint()`.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::SqlState;

use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_emitter};

fn refusal(client: &mut Client, sql: &str) -> Option<SqlState> {
    client.batch_execute(sql).err().and_then(|error| error.code().cloned())
}

#[test]
fn names_are_checked_only_if_asked() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    let emit = |name: &str| format!("SELECT outbox.emit('t.x', '1', 'k', event_type => '{name}')");
    db.client.batch_execute(&emit("nonsense"))?;
    db.client.batch_execute("SET event_outbox.naming = 'warn'")?;
    db.client.batch_execute(&emit("nonsense"))?;
    db.client.batch_execute("SET event_outbox.naming = 'error'")?;
    for good in ["order.placed", "OrderPlaced", "com.example.order.paid.v2"] {
        db.client.batch_execute(&emit(good))?;
    }
    for wrong in ["nonsense", "order.place", "PlaceOrder"] {
        assert_eq!(refusal(&mut db.client, &emit(wrong)), Some(SqlState::INVALID_NAME), "{wrong}");
    }
    // What is inserted by hand, or moved by the relay, is not refused; outbox.lint() finds it.
    db.client.batch_execute(
        "INSERT INTO outbox.events (topic, payload, event_type) VALUES ('t', '1', 'nonsense')",
    )?;
    // Without a type, consumers see the topic's name.
    assert_eq!(refusal(&mut db.client, "SELECT outbox.emit('t.x', '1')"), Some(SqlState::INVALID_NAME));
    db.client.batch_execute("SELECT outbox.emit('order.placed', '1')")?;
    // A message with a wrong name is the message's fault.
    let sql = "SELECT status FROM outbox.try_emit('s', 't', '1', event_type => 'nonsense')";
    assert_eq!(db.client.query_one(sql, &[])?.get::<_, &str>(0), "invalid");
    // What was stored before may be changed: only its type is old.
    db.client.batch_execute("UPDATE outbox.events SET payload = '2' WHERE event_type = 'nonsense'")?;
    Ok(())
}

#[test]
fn a_pattern_of_ones_own_decides() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "SET event_outbox.naming = 'error'; SET event_outbox.naming_pattern = '^(?:urn:shop:)[a-z]+$'",
    )?;
    let emit = |name: &str| format!("SELECT outbox.emit('t', '1', event_type => '{name}')");
    db.client.batch_execute(&emit("urn:shop:anything"))?;
    assert_eq!(refusal(&mut db.client, &emit("order.placed")), Some(SqlState::INVALID_NAME));
    // The pattern of a superuser may be costly; the search can be interrupted all the same.
    db.client.batch_execute(
        "SET event_outbox.naming_pattern = '^((a+)+)\\2\\1\\2\\1$'; SET statement_timeout = '500ms'",
    )?;
    let found = refusal(&mut db.client, &emit(&"a".repeat(20_001)));
    assert!(matches!(found, Some(SqlState::QUERY_CANCELED | SqlState::INVALID_NAME)), "{found:?}");
    db.client.batch_execute("SET event_outbox.naming_pattern = '('")?;
    assert_eq!(refusal(&mut db.client, &emit("x")), Some(SqlState::INVALID_REGULAR_EXPRESSION));
    let user = create_emitter(&mut db, "namer")?;
    let mut session = db.connect_as(&user)?;
    assert_denied(&mut session, "SET event_outbox.naming = 'error'");
    assert_denied(&mut session, "SET event_outbox.naming_pattern = 'x'");
    assert_denied(&mut session, "SELECT outbox.lint()");
    assert_denied(&mut session, "SELECT outbox.naming_breach('x')");
    Ok(())
}

#[test]
fn lint_finds_what_breaks_the_conventions() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute(
        "CREATE TABLE orders (id int PRIMARY KEY);
         SELECT outbox.capture('orders', 'notification');
         SELECT outbox.emit('io.shop.order.resource', '1', 'k', event_type => 'order.placed');
         SELECT outbox.emit('io.shop.order.resource', '1', 'k', event_type => 'order.paid')",
    )?;
    let findings = |client: &mut Client| -> Result<Vec<String>> {
        let sql = "SELECT concat_ws(' ', rule, topic, event_type, events) FROM outbox.lint()
                    WHERE finding LIKE '%.' AND hint LIKE '%.'";
        Ok(client.query(sql, &[])?.iter().map(|row| row.get(0)).collect())
    };
    assert_eq!(findings(&mut db.client)?, Vec::<String>::new());
    db.client.batch_execute(
        "SELECT outbox.emit('io.shop.order.resource', '1', event_type => 'OrderPlaced');
         SELECT outbox.emit('orders', '1', 'k'), outbox.emit('orders', '1', 'k');
         SELECT outbox.emit('io.shop.bill.resource', '1', 'k', event_type => 'bill.pay');
         SELECT outbox.capture('orders', 'notification', event_type => 'thing')",
    )?;
    let found = findings(&mut db.client)?;
    for expected in [
        "key_missing io.shop.order.resource OrderPlaced 1",
        "topic orders 2",
        "type io.shop.bill.resource bill.pay 1",
        "type_missing orders 2",
        "types_differ io.shop.order.resource 3",
    ] {
        assert!(found.iter().any(|finding| finding == expected), "{expected}: {found:?}");
    }
    assert!(
        found.iter().any(|finding| finding.starts_with("type ") && finding.ends_with("thing 0")),
        "{found:?}"
    );
    assert_eq!(found.len(), 6, "{found:?}");
    Ok(())
}

/// The names of a captured table are its owner's choice: no write fails for them.
#[test]
fn the_types_of_a_captured_table_are_checked_when_it_is_captured() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    db.client.batch_execute("CREATE TABLE orders (id int PRIMARY KEY, n int)")?;
    let capture = |more: &str| {
        format!("SELECT outbox.capture('orders', 'delta', topic => 'io.shop.orders.resource'{more})")
    };
    let wrong = capture(", event_type => 'order.{action}.now'");
    db.client.batch_execute("SET event_outbox.naming = 'warn'")?;
    db.client.batch_execute(&wrong)?;
    db.client.batch_execute("SET event_outbox.naming = 'error'")?;
    assert_eq!(refusal(&mut db.client, &wrong), Some(SqlState::INVALID_NAME));
    // What was captured before stays captured.
    let changes = "INSERT INTO orders VALUES (1, 1), (2, 2); UPDATE orders SET n = 3; DELETE FROM orders; TRUNCATE orders";
    for mode in ["row", "statement"] {
        db.client.batch_execute("SET event_outbox.naming = 'off'")?;
        db.client
            .batch_execute(&wrong.replace(", event_type", &format!(", mode => '{mode}', event_type")))?;
        db.client.batch_execute("SET event_outbox.naming = 'error'")?;
        db.client.batch_execute(changes)?;
    }
    assert_eq!(db.client.query_one("SELECT count(*) FROM outbox.events", &[])?.get::<_, i64>(0), 14);
    // The types of its own, which a snapshot has as well, keep the convention.
    db.client.batch_execute("INSERT INTO orders VALUES (1, 1)")?;
    db.client.batch_execute(&capture(", snapshot => true"))?;
    db.client.batch_execute("DELETE FROM outbox.events WHERE event_type LIKE '%.now'")?;
    assert!(db.client.query("SELECT FROM outbox.lint() WHERE rule = 'type'", &[])?.is_empty());
    // A convention of one's own: only what can happen counts.
    db.client.batch_execute("SET event_outbox.naming_pattern = '^orders\\.(created|deleted)$'")?;
    assert_eq!(refusal(&mut db.client, &capture("")), Some(SqlState::INVALID_NAME));
    assert_eq!(refusal(&mut db.client, &capture(", operations => '{update}'")), Some(SqlState::INVALID_NAME));
    db.client.batch_execute(&capture(", operations => '{insert,delete}'"))?;
    // Types that were captured before are found.
    db.client
        .batch_execute("SET event_outbox.naming_pattern = '^orders\\.created$'; DELETE FROM outbox.events")?;
    let found = db.client.query("SELECT event_type FROM outbox.lint() WHERE rule = 'type'", &[])?;
    assert_eq!(found.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["orders.deleted"]);
    Ok(())
}
