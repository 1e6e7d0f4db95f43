//! pgbench's own tables, and what may be done about their changes.

use anyhow::{Context, Result};
use event_outbox_lab::progress;
use postgres::Client;

use crate::pgbench::Ran;
use crate::stage::Stage;

/// The topic of all changes.
pub const TOPIC: &str = "captured";

/// The tables, with the column that identifies a row for consumers. `pgbench_history` has no primary key.
pub const TABLES: [(&str, &str); 4] = [
    ("pgbench_accounts", "aid"),
    ("pgbench_branches", "bid"),
    ("pgbench_tellers", "tid"),
    ("pgbench_history", "aid"),
];

/// How many changes a transaction makes: one of each table.
pub const CHANGES: u64 = TABLES.len() as u64;

/// Enough branches that clients seldom wait for each other.
const SCALE: u32 = 10;

const CLIENTS: u64 = 4;

/// What becomes of changes. All but the first make the same events, with the row before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Nothing.
    Nothing,
    /// A trigger in plpgsql that calls `emit()`, as one writes it by hand.
    ByHand,
    /// `outbox.capture()`, by row.
    Row,
    /// `outbox.capture()`, by statement.
    Statement,
}

impl Way {
    /// The name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::ByHand => "by_hand",
            Self::Row => "row",
            Self::Statement => "statement",
        }
    }
}

/// Creates the tables in a database.
pub fn create(stage: &Stage, database: &str) -> Result<()> {
    let mut pgbench = stage.server().client_program("pgbench", database);
    pgbench.args(["-i", "-q", "-s", &SCALE.to_string()]);
    progress::step("creating pgbench's tables", || {
        let output = pgbench.output().context("pgbench -i")?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

/// Runs this many transactions of pgbench's standard script.
pub fn run(stage: &Stage, database: &str, transactions: u64) -> Result<Ran> {
    let mut pgbench = stage.server().client_program("pgbench", database);
    let (clients, each) = (CLIENTS.to_string(), (transactions / CLIENTS).to_string());
    Ran::of(pgbench.args(["-n", "-M", "prepared", "-c", &clients, "-j", "2", "-t", &each]))
}

/// Has the changes of the tables become events in this way, and in no other.
pub fn set(client: &mut Client, way: Way) -> Result<()> {
    for (table, key) in TABLES {
        client.batch_execute(&format!(
            "SELECT outbox.uncapture('{table}'); DROP TRIGGER IF EXISTS by_hand ON {table}"
        ))?;
        let sql = match way {
            Way::Nothing => continue,
            Way::ByHand => by_hand(table, key),
            Way::Row | Way::Statement => format!(
                "SELECT outbox.capture('{table}', 'fat', topic => '{TOPIC}', key => '{{{key}}}', mode => '{}')",
                way.name()
            ),
        };
        client.batch_execute(&sql).with_context(|| table.to_owned())?;
    }
    Ok(())
}

fn by_hand(table: &str, key: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION by_hand_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM outbox.emit('{TOPIC}',
                                 jsonb_build_object('key', jsonb_build_object('{key}', NEW.{key}),
                                                    'old', to_jsonb(OLD), 'new', to_jsonb(NEW)),
                                 key => NEW.{key}::text,
                                 event_type => CASE TG_OP WHEN 'INSERT' THEN '{table}.created' ELSE '{table}.replaced' END);
             RETURN NULL;
         END $$;
         CREATE TRIGGER by_hand AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION by_hand_{table}()"
    )
}
