//! Who may register and bind.

use event_outbox_lab::Result;

use crate::support::database::TestDatabase;
use crate::support::roles::{assert_denied, create_emitter, create_role};
use crate::support::schemas::bind_orders;

#[test]
fn nobody_registers_or_binds_without_a_grant() -> Result<()> {
    let mut db = TestDatabase::disabled()?;
    bind_orders(&mut db, "orders", "avro", "confluent")?;
    let emitter = create_emitter(&mut db, "emitter")?;
    let mut client = db.connect_as(&emitter)?;
    // Whoever may emit needs no right on the schemas.
    client.batch_execute("SELECT outbox.emit('orders', '{\"id\": 1}')")?;
    for sql in [
        "SELECT outbox.register_schema('s', 'avro', '\"int\"')",
        "SELECT outbox.unregister_schema('avro-orders')",
        "SELECT outbox.bind_schema('orders', NULL, NULL)",
        "SELECT outbox.unbind_schema('orders')",
        "SELECT outbox.check_schema('json', '{}')",
        "SELECT * FROM outbox.schemas",
        "SELECT * FROM outbox.schema_bindings",
        "SELECT * FROM outbox.schema_definition",
        "DELETE FROM outbox.schema_binding",
    ] {
        assert_denied(&mut client, sql);
    }
    let author = create_role(&mut db, "author", "")?;
    db.client.batch_execute(&format!(
        "GRANT USAGE ON SCHEMA outbox TO {author};
         GRANT EXECUTE ON FUNCTION outbox.register_schema, outbox.bind_schema TO {author};
         GRANT SELECT ON outbox.schemas TO {author}"
    ))?;
    let mut client = db.connect_as(&author)?;
    client.batch_execute(
        "SELECT outbox.register_schema('s', 'avro', '\"int\"'); SELECT outbox.bind_schema('t', NULL, 's');
         SELECT * FROM outbox.schemas",
    )?;
    assert_denied(&mut client, "SELECT outbox.unbind_schema('t')");
    Ok(())
}
