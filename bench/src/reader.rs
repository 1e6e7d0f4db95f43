//! The contenders that read a topic into a table, together with the offsets of what they have stored.

pub mod copying;
pub mod jdbc_sink;
pub mod ours;
pub mod python;
pub mod reducing;
pub mod table;
pub mod upsert;

use anyhow::Result;

use crate::events::Load;

/// A way from a topic into a table.
pub trait Reader {
    /// Its name in figures.
    fn name(&self) -> &'static str;

    /// Starts to store the topic from its beginning, and returns at once.
    fn open(&mut self, topic: &str) -> Result<()>;

    /// The number of events that are stored.
    fn stored(&mut self) -> Result<u64>;

    /// Stops, checks that each event of the load is stored exactly once and unchanged, and empties the table.
    fn close(&mut self, load: &Load) -> Result<()>;

    /// A description of its state, for the message when it fails.
    fn trouble(&self) -> String {
        self.name().to_string()
    }
}
