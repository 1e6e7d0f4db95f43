//! Faults of the real broker.

use anyhow::Result;

use crate::torture::stage::Stage;

impl Stage {
    pub(super) fn stop_kafka(&mut self) -> Result<()> {
        self.broker()?.stop()?;
        self.hold(0, 1500);
        self.broker()?.start()
    }

    pub(super) fn kill_kafka(&mut self) -> Result<()> {
        self.broker()?.kill()?;
        self.hold(0, 1500);
        self.broker()?.start()
    }

    /// Shorter or longer than the relay waits for an answer.
    pub(super) fn freeze_kafka(&mut self) -> Result<()> {
        self.broker()?.pause()?;
        self.hold(300, 6000);
        self.broker()?.resume()
    }
}
