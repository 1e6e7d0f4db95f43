//! Events that each broker refuses, in extreme numbers and sizes.

use anyhow::{Result, ensure};

use crate::stage::Stage;
use crate::topics::VOLATILE;

/// Events of a flood: more than the relay keeps in flight, and more than it retries one by one.
const FLOOD: (usize, usize) = (1_000, 15_000);

/// Bytes of a huge key: the broker refuses the first, and would close the connection for the last.
const HUGE: [usize; 3] = [2_000_000, 20_000_000, 110_000_000];

impl Stage {
    pub(super) fn flood(&mut self) -> Result<()> {
        let topic = self.random.below(VOLATILE);
        let count = self.random.between(FLOOD.0, FLOOD.1);
        let is_keyed = self.random.permille(500);
        ensure!(self.pulse.flood(topic, count, is_keyed), "a flood of {count} events was not committed");
        Ok(())
    }

    pub(super) fn huge_key(&mut self) -> Result<()> {
        let topic = self.random.below(VOLATILE);
        let bytes = *self.random.one_of(&HUGE);
        ensure!(self.pulse.emit_huge(topic, bytes), "an event with a key of {bytes} bytes was not committed");
        Ok(())
    }
}
