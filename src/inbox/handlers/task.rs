//! Owns the task of a handler process, and how it travels to the process.
//!
//! Runs in: the ingest worker, which starts the process, and the process.

use std::fmt;
use std::str::FromStr;

use pgrx::pg_sys;

use super::supervisor;

/// What a handler process does. Two processes of a handler have the same task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its database.
    pub database: pg_sys::Oid,
    /// The owner of the function: the process is connected as this role.
    pub role: pg_sys::Oid,
    /// The function.
    pub function: pg_sys::Oid,
    /// Whether the function takes all events of a batch at once.
    pub takes_array: bool,
    /// How many events are received in a transaction, at most.
    pub batch: i32,
    /// The name of the subscription.
    pub subscription: String,
}

/// The form in which Postgres hands it to the process: a text of up to 127 bytes. A name has up to 63 bytes.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, role, function, takes_array, batch, subscription } = self;
        let [database, role, function] = [database, role, function].map(|oid| oid.to_u32());
        write!(f, "{database} {role} {function} {} {batch} {subscription}", u8::from(*takes_array))
    }
}

impl supervisor::Task for Task {
    const NAME: &'static str = "event_outbox handler";
    const ENTRY: &'static str = "event_outbox_inbox_handler_main";

    fn purpose(&self) -> String {
        format!("the handler of subscription \"{}\"", self.subscription)
    }
}

impl FromStr for Task {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(6, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).ok_or(());
        let [database, role, function] = [number()?, number()?, number()?].map(pg_sys::Oid::from);
        let (takes_array, batch) = (number()? != 0, number()?);
        let batch = i32::try_from(batch).map_err(|_| ())?;
        let subscription = words.next().ok_or(())?.to_owned();
        Ok(Self { database, role, function, takes_array, batch, subscription })
    }
}
