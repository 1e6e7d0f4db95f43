//! A dump has the streams, and how far subscriptions have taken them.

use event_outbox_lab::Result;
use postgres::Client;

use crate::support::database::TestDatabase;
use crate::support::dump::{dump, restore, restore_in_parallel};
use crate::support::inbox::{receive, until_received};
use crate::support::streams::append;

fn everything(client: &mut Client) -> Result<String> {
    let sql = "SELECT concat((SELECT json_agg(e ORDER BY position) FROM event_store.event AS e),
                             (SELECT json_agg(s ORDER BY id) FROM event_store.stream AS s),
                             (SELECT json_agg(c ORDER BY command_id) FROM event_store.command AS c),
                             (SELECT json_agg(n ORDER BY stream_id) FROM event_store.snapshot AS n),
                             (SELECT json_agg(b ORDER BY category) FROM event_store.category_binding AS b))";
    Ok(client.query_one(sql, &[])?.get(0))
}

#[test]
fn a_restored_store_goes_on() -> Result<()> {
    let mut db = TestDatabase::new()?;
    db.client.batch_execute("SELECT event_store.subscribe('s', '{a}', 'earliest')")?;
    for _ in 0..3 {
        append(&mut db.client, "a-1", "any", "x")?;
    }
    // A gap that is not decided when the events behind it are taken.
    let mut open = db.connect()?;
    open.batch_execute("BEGIN")?;
    append(&mut open, "a-undone", "any", "x")?;
    db.client.batch_execute(
        "SELECT event_store.append('a-2', 'no_stream', '{\"type\": \"x\", \"id\": \"00000000-0000-0000-0000-000000000001\"}', 'c');
         SELECT event_store.save_snapshot('a-1', 3, '{\"n\": 3}'), event_store.bind_category('b', 'bound')",
    )?;
    assert_eq!(until_received(&mut db.client, "s", 4)?.len(), 4);
    let dumped = dump(&db, &[])?;
    let before = everything(&mut db.client)?;
    for in_parallel in [false, true] {
        let mut restored = TestDatabase::of(db.server.create_database()?)?;
        if in_parallel {
            // Or else the worker may begin when the subscription is there, and what it has taken is not.
            let sql = format!("ALTER DATABASE {} SET event_outbox.enabled = off", restored.database);
            db.client.batch_execute(&sql)?;
            restore_in_parallel(&dumped, db.server, &restored.database)?;
            let sql = format!("ALTER DATABASE {} RESET event_outbox.enabled", restored.database);
            db.client.batch_execute(&sql)?;
        } else {
            restore(&dumped, db.server, &restored.database, &[])?;
        }
        let client = &mut restored.client;
        assert_eq!(everything(client)?, before);
        let again = "SELECT event_store.append('a-2', 'no_stream', '{\"type\": \"x\"}', 'c')";
        assert_eq!(client.query_one(again, &[])?.get::<_, i64>(0), 1);
        assert_eq!(append(client, "a-1", "3", "x")?, 4);
        let event = &until_received(client, "s", 1)?[0];
        assert_eq!(event.key.as_deref(), Some(&b"a-1"[..]));
        assert_eq!(receive(client, "s", 100)?, []);
    }
    Ok(())
}
