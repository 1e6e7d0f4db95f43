//! Owns the task of a projection's process, and how it travels to the process.
//!
//! Runs in: the ingest worker, which starts the process, and the process.

use std::fmt;
use std::str::FromStr;

use pgrx::pg_sys;

use crate::inbox::handlers::supervisor;

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its database.
    pub database: pg_sys::Oid,
    /// The owner of the table: the process is connected as this role.
    pub role: pg_sys::Oid,
    /// The subscription.
    pub subscription: i32,
    /// Its name.
    pub name: String,
}

/// The form in which Postgres hands it to the process: a text of up to 127 bytes. A name has up to 63 bytes.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, role, subscription, name } = self;
        write!(f, "{} {} {subscription} {name}", database.to_u32(), role.to_u32())
    }
}

impl supervisor::Task for Task {
    const NAME: &'static str = "event_outbox projection";
    const ENTRY: &'static str = "event_outbox_inbox_projection_main";

    fn purpose(&self) -> String {
        format!("projection \"{}\"", self.name)
    }
}

impl FromStr for Task {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(4, ' ');
        let mut oid =
            || words.next().and_then(|word| word.parse::<u32>().ok()).map(pg_sys::Oid::from).ok_or(());
        let (database, role) = (oid()?, oid()?);
        let subscription = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        let name = words.next().ok_or(())?.to_owned();
        Ok(Self { database, role, subscription, name })
    }
}
