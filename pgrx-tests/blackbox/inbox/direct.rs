//! Sessions read and write the tables without the executor, and remember the subscription: that makes no difference but speed.

use event_outbox_lab::Result;

use crate::support::inbox_log::{number, receive, store, subscription};
use crate::support::subscriptions::refusal;

/// What was changed is known in the middle of a transaction, too, and what was rolled back is not.
#[test]
fn a_transaction_learns_of_changes() -> Result<()> {
    let mut db = subscription("key")?;
    let events: Vec<(i64, i16, &str)> = (1..=8).map(|at| (at, 7, "k")).collect();
    store(&mut db, &events)?;
    let mut session = db.connect()?;
    session.batch_execute("BEGIN")?;
    assert_eq!(receive(&mut session, 1)?, [1]);
    db.client.batch_execute("SELECT inbox.pause('s')")?;
    assert_eq!(receive(&mut session, 1)?, [] as [i64; 0]);
    db.client.batch_execute("SELECT inbox.resume('s'); UPDATE inbox.partition SET first_position = 3")?;
    assert_eq!(receive(&mut session, 1)?, [4]);
    session.batch_execute("COMMIT; BEGIN; SAVEPOINT a; SELECT inbox.pause('s')")?;
    assert_eq!(receive(&mut session, 1)?, [] as [i64; 0]);
    session.batch_execute("ROLLBACK TO a")?;
    assert_eq!(receive(&mut session, 1)?, [5]);
    session.batch_execute("COMMIT")?;
    // A segment that is new to the session.
    db.client.batch_execute(
        "INSERT INTO inbox.segment (number, first_position) VALUES (1, 9);
         INSERT INTO inbox.log_1 (source_id, lane, position, partition, \"offset\") VALUES (1000, 7, 9, 0, 9)",
    )?;
    assert_eq!(receive(&mut session, 10)?, [6, 7, 8, 9]);
    db.client.batch_execute("DELETE FROM inbox.subscription")?;
    assert_eq!(refusal(&mut session, "SELECT inbox.receive('s')"), "42704");
    Ok(())
}

/// Triggers fire, and a table without its index is read.
#[test]
fn a_changed_table_is_used_in_sql() -> Result<()> {
    let mut db = subscription("key")?;
    let events: Vec<(i64, i16, &str)> = (1..=6).map(|at| (at, 7, "k")).collect();
    store(&mut db, &events)?;
    assert_eq!(receive(&mut db.client, 1)?, [1]);
    db.client.batch_execute(
        "CREATE TABLE fired (upto bigint);
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.fired VALUES (new.upto); RETURN new; END $$;
         CREATE TRIGGER fire BEFORE INSERT ON inbox.lane FOR EACH ROW EXECUTE FUNCTION fire()",
    )?;
    assert_eq!(receive(&mut db.client, 1)?, [2]);
    assert_eq!(number(&mut db, "SELECT upto FROM fired")?, 2);
    db.client
        .batch_execute("DROP TRIGGER fire ON inbox.lane; ALTER TABLE inbox.log_0 ADD COLUMN more text")?;
    assert_eq!(receive(&mut db.client, 1)?, [3]);
    db.client.batch_execute("ALTER TABLE inbox.log_0 DROP COLUMN more; DROP INDEX inbox.retry_by_lane")?;
    assert_eq!(receive(&mut db.client, 1)?, [4]);
    db.client.batch_execute("CREATE INDEX more ON inbox.lane (upto)")?;
    assert_eq!(receive(&mut db.client, 1)?, [5]);
    let sql = "SELECT upto FROM inbox.lane WHERE upto = 5";
    db.client.batch_execute("SET enable_seqscan = off")?;
    assert_eq!(number(&mut db, sql)?, 5, "the index has the new row");
    db.client.batch_execute("DROP INDEX inbox.more")?;
    assert_eq!(receive(&mut db.client, 1)?, [6]);
    assert_eq!(number(&mut db, "SELECT count(*) FROM fired")?, 1);
    Ok(())
}

/// A session looks for the newest state from the one on that it knew last; others, or a rollback, have made it another one.
#[test]
fn the_newest_of_many_states_counts() -> Result<()> {
    let mut db = subscription("key")?;
    let events: Vec<(i64, i16, &str)> = (1..=900).map(|at| (at, (at % 2) as i16, "k")).collect();
    store(&mut db, &events)?;
    let mut other = db.connect()?;
    let mut all = Vec::new();
    for _ in 0..200 {
        all.extend(receive(&mut db.client, 1)?);
    }
    for _ in 0..200 {
        all.extend(receive(&mut other, 1)?);
    }
    db.client.batch_execute("BEGIN")?;
    let undone = receive(&mut db.client, 10)?;
    db.client.batch_execute("ROLLBACK")?;
    assert_eq!(undone.len(), 10);
    while all.len() < 900 {
        let more = receive(&mut db.client, 100)?;
        all.extend(more);
    }
    for lane in [0, 1] {
        let of_lane: Vec<i64> = all.iter().copied().filter(|at| at % 2 == lane).collect();
        assert!(of_lane.is_sorted() && of_lane.len() == 450, "{of_lane:?}");
    }
    Ok(())
}

/// A document is what Postgres makes of it, to the bit.
#[test]
fn plain_documents_are_as_postgres_stores_them() -> Result<()> {
    let mut db = subscription("none")?;
    db.client.batch_execute(
        r#"INSERT INTO inbox.log_0 (source_id, lane, position, partition, "offset", value)
           SELECT 1000, 3, row_number() OVER (), 0, 0, convert_to(json, 'UTF8')
             FROM (SELECT unnest(ARRAY['{}', '[]', '[[],{}]', '{"a":{"b":{"c":[1,2,{"d":null}]}}}',
                                       '{"bb":1,"a":2,"ccc":3,"aa":4,"":5}', '["ü","€","😀",""]', '[true,false,null]',
                                       '[1.5,"\n",1e3]', '{"a":1,"a":2}', ' [ 1 , 2 ]  '])
                   UNION ALL
                   SELECT format('{"n":%s,"m":[%s,"x",%s],"%s":"%s"}', n, -n, n % 10000, repeat('k', (random() * 9)::int),
                                 repeat('v', (random() * 99)::int))
                     FROM (SELECT (10::numeric ^ (i / 10.0))::bigint AS n FROM generate_series(0, 179) AS i
                           UNION ALL SELECT (10::numeric ^ i)::bigint FROM generate_series(0, 17) AS i
                           UNION ALL SELECT 0) AS n
                   UNION ALL
                   SELECT '{' || string_agg(format('"k%s":[%s,"%s"]', i, i, i), ',') || '}'
                     FROM generate_series(1, 100) AS g CROSS JOIN LATERAL generate_series(1, g) AS i GROUP BY g
                   UNION ALL
                   SELECT json_agg(i)::text FROM generate_series(1, 100) AS g CROSS JOIN LATERAL generate_series(1, g) AS i GROUP BY g
                  ) AS documents (json)"#,
    )?;
    let rows = db.client.query(
        "SELECT convert_from(payload, 'UTF8'), data::text FROM inbox.receive('s', 10000)
          WHERE NOT record_image_eq(ROW(data), ROW(convert_from(payload, 'UTF8')::jsonb)) OR data IS NULL",
        &[],
    )?;
    let wrong: Vec<(String, Option<String>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(wrong, []);
    Ok(())
}

/// So are headers.
#[test]
fn headers_are_as_postgres_stores_them() -> Result<()> {
    let mut db = subscription("none")?;
    // Each header is a length, the name, a length more by one, and the value.
    db.client.batch_execute(
        r#"INSERT INTO inbox.log_0 (source_id, lane, position, partition, "offset", headers)
          SELECT 1000, 3, row_number() OVER (), 0, 0, headers
            FROM unnest(ARRAY['\x', '\x026262036363', '\x026262036363016100', '\x016103ff00', '\x0161026201610263']::bytea[]) AS headers
          UNION ALL
          SELECT 1000, 3, 100 + g, 0, 0,
                 string_agg('\x03' || convert_to(lpad(i::text, 3, 'k'), 'UTF8') || '\x04' || convert_to(lpad(i::text, 3, 'v'), 'UTF8'), '')
            FROM generate_series(1, 50) AS g CROSS JOIN LATERAL generate_series(1, g) AS i GROUP BY g"#,
    )?;
    let rows = db.client.query(
        "SELECT headers::text FROM inbox.receive('s', 10000)
          WHERE NOT record_image_eq(ROW(headers), ROW(headers::text::jsonb)) OR headers IS NULL",
        &[],
    )?;
    let wrong: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(wrong, []);
    Ok(())
}
