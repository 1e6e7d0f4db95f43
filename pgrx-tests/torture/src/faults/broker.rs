//! Faults of real brokers.

use anyhow::Result;

use crate::stage::Stage;
use event_outbox_lab::Broker;

impl Stage {
    pub(super) fn stop_kafka(&mut self) -> Result<()> {
        self.end_kafka(Broker::stop)
    }

    pub(super) fn kill_kafka(&mut self) -> Result<()> {
        self.end_kafka(Broker::kill)
    }

    pub(super) fn end_kafka(&mut self, end: fn(&mut Broker) -> Result<()>) -> Result<()> {
        for number in self.some_brokers()? {
            end(self.real()?.broker(number))?;
        }
        self.hold(0, 1500);
        self.real()?.start_all()
    }

    /// For less or more time than the relay waits for an answer.
    pub(super) fn freeze_kafka(&mut self) -> Result<()> {
        let frozen = self.some_brokers()?;
        for number in &frozen {
            self.real()?.broker(*number).pause()?;
        }
        self.hold(300, 6000);
        for number in frozen {
            self.real()?.broker(number).resume()?;
        }
        self.until_brokers_answer()
    }

    /// Brokers come back at another address; the configured one still works.
    pub(super) fn move_kafka(&mut self) -> Result<()> {
        let moved = self.some_brokers()?;
        for number in &moved {
            self.real()?.broker(*number).stop()?;
        }
        self.hold(0, 1500);
        for number in moved {
            self.kafka.move_broker(number)?;
        }
        self.real()?.start_all()
    }

    /// One broker after the other: each partition changes its leader several times.
    pub(super) fn restart_in_turn(&mut self) -> Result<()> {
        self.real()?.roll()
    }

    /// Leaders change while all brokers run.
    pub(super) fn elect_leaders(&mut self) -> Result<()> {
        self.real()?.broker(0).elect_preferred_leaders()
    }

    /// The cluster may have fenced a broker that was frozen for long.
    pub(super) fn until_brokers_answer(&mut self) -> Result<()> {
        let cluster = self.real()?;
        event_outbox_lab::wait::until("all brokers to answer", ANSWERS, || {
            cluster.brokers().iter().all(Broker::answers).then_some(())
        })
    }
}

const ANSWERS: std::time::Duration = std::time::Duration::from_secs(60);
