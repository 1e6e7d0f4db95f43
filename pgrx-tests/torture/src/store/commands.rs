//! Appends with the ids of commands: whatever happens, each is repeated until its end is known, and counts once.

use postgres::Error;
use serde_json::Value;

use super::appender::{Appender, SHARED};
use crate::journal::Ending;

/// Of commands that have succeeded, those that are repeated all the same, in a thousand.
const REPEATED: usize = 100;

/// An append with the id of a command.
#[derive(Clone, Debug)]
pub struct Command {
    transaction: i64,
    stream: String,
    events: Value,
    id: String,
    topic: Option<&'static str>,
}

impl Appender {
    /// Handles a command.
    pub(super) fn command(&mut self, number: i64) -> Result<(), Error> {
        let stream = format!("stream-{}", self.random.below(SHARED));
        let (events, topic) = self.new_events(number, &stream, &mut 0);
        self.journal.endings.insert(number, Ending::Unknown);
        self.open =
            Some(Command { transaction: number, stream, events, id: format!("command {number}"), topic });
        self.repeat_command()
    }

    /// Handles the command of which the end is not known, if there is one.
    pub(super) fn repeat_command(&mut self) -> Result<(), Error> {
        if self.client.is_none() {
            return Ok(());
        }
        while let Some(command) = self.open.clone() {
            self.begin(command.transaction)?;
            self.call(&command.stream, "any", &command.events, Some(&command.id), command.topic)?;
            self.execute("COMMIT")?;
            self.journal.endings.insert(command.transaction, Ending::Committed);
            if self.random.permille(REPEATED) {
                self.journal.retries += 1;
            } else {
                self.open = None;
            }
        }
        Ok(())
    }
}
