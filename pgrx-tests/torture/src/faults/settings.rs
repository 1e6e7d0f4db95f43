//! Settings that change while the relay works.

use std::fmt;

use anyhow::Result;

use crate::stage::Stage;

/// The setting that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A property of librdkafka.
    Linger,
    /// How many events may be in flight.
    MaxInFlight,
    /// How many events are read at once.
    BatchSize,
    /// How listeners are notified.
    Notify,
    /// Publishing is turned off for a while.
    Enabled,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Linger, Self::MaxInFlight, Self::BatchSize, Self::Notify, Self::Enabled];

    /// Whether the relay creates a new producer for it.
    pub fn renews_producer(self) -> bool {
        matches!(self, Self::Linger | Self::MaxInFlight | Self::Enabled)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linger => "linger.ms",
            Self::MaxInFlight => "max_in_flight",
            Self::BatchSize => "batch_size",
            Self::Notify => "notify",
            Self::Enabled => "enabled off, on",
        })
    }
}

impl Stage {
    pub(super) fn reload(&mut self, change: Change) -> Result<()> {
        let random = &mut self.random;
        let (name, value) = match change {
            Change::Linger => {
                let linger = *random.one_of(&[0, 5, 50]);
                ("kafka_properties", format!("{},linger.ms={linger}", self.kafka.properties()))
            }
            Change::MaxInFlight => ("max_in_flight", random.one_of(&[50, 500, 5_000, 50_000]).to_string()),
            Change::BatchSize => ("batch_size", random.one_of(&[10, 100, 1_000, 5_000]).to_string()),
            Change::Notify => ("notify", (*random.one_of(&["batch", "event"])).to_string()),
            Change::Enabled => ("enabled", "off".into()),
        };
        self.configure(&format!("event_outbox.{name}"), &value)?;
        if change == Change::Enabled {
            self.hold(200, 2000);
            self.configure("event_outbox.enabled", "on")?;
        }
        Ok(())
    }
}
