//! Schemas of orders in each format, and what the server says of events.

use event_outbox_lab::Result;
use postgres::Client;
use postgres::error::DbError;

use crate::support::database::TestDatabase;

/// An order in each format: an id, a note that may be missing, and amounts.
pub const ORDERS: [(&str, &str); 3] = [
    (
        "json",
        r##"{"type": "object", "required": ["id"], "additionalProperties": false, "properties":
            {"id": {"type": "integer"}, "note": {"type": ["string", "null"]},
             "amounts": {"type": "array", "items": {"type": "number"}}}}"##,
    ),
    (
        "avro",
        r#"{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"},
            {"name": "note", "type": ["null", "string"], "default": null},
            {"name": "amounts", "type": {"type": "array", "items": "double"}, "default": []}]}"#,
    ),
    (
        "protobuf",
        r#"syntax = "proto3"; message Order { int64 id = 1; optional string note = 2; repeated double amounts = 3; }"#,
    ),
];

pub fn register(
    client: &mut Client,
    subject: &str,
    format: &str,
    definition: &str,
) -> Result<i32, postgres::Error> {
    let sql = "SELECT outbox.register_schema($1, $2, $3)";
    Ok(client.query_one(sql, &[&subject, &format, &definition])?.get(0))
}

pub fn bind(client: &mut Client, topic: &str, subject: &str, wire_format: &str) -> Result<()> {
    let sql = "SELECT outbox.bind_schema($1, NULL, $2, wire_format => $3)";
    client.execute(sql, &[&topic, &subject, &wire_format])?;
    Ok(())
}

/// Registers the orders of a format, and binds a topic to them.
pub fn bind_orders(db: &mut TestDatabase, topic: &str, format: &str, wire_format: &str) -> Result<i32> {
    let (_, definition) = ORDERS.iter().find(|(name, _)| *name == format).unwrap();
    let subject = format!("{format}-orders");
    let id = register(&mut db.client, &subject, format, definition)?;
    bind(&mut db.client, topic, &subject, wire_format)?;
    Ok(id)
}

/// The error with which the server refuses a statement. It says why, and what to do.
pub fn refused(client: &mut Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone();
    assert!(error.detail().is_some() && error.hint().is_some(), "{sql}: {error:?}");
    error
}
