//! Faults of the network to real brokers.

use std::time::Duration;

use anyhow::Result;

use crate::stage::Stage;
use event_outbox_lab::proxy::NetworkState;

impl Stage {
    fn network(&mut self, network: NetworkState, from_millis: usize, to_millis: usize) -> Result<()> {
        self.kafka.proxies().for_each(|proxy| proxy.set_network(network));
        self.hold(from_millis, to_millis);
        self.kafka.proxies().for_each(|proxy| proxy.set_network(NetworkState::Normal));
        Ok(())
    }

    fn cut_all(&self) {
        for proxy in self.kafka.proxies() {
            proxy.cut();
        }
    }

    pub(super) fn cut(&mut self) -> Result<()> {
        for _ in 0..self.random.between(1, 4) {
            self.cut_all();
            self.hold(20, 400);
        }
        Ok(())
    }

    pub(super) fn slow_down(&mut self) -> Result<()> {
        let delay = Duration::from_millis(self.random.between(20, 300) as u64);
        self.network(NetworkState::Slow(delay), 1000, 3000)
    }

    /// In the end the connections are cut, as if the peer had forgotten them, or go on as if nothing had happened.
    pub(super) fn half_open(&mut self) -> Result<()> {
        self.network(NetworkState::HalfOpen, 500, 6000)?;
        if self.random.permille(500) {
            self.cut_all();
        }
        Ok(())
    }

    pub(super) fn lose_answers(&mut self) -> Result<()> {
        self.network(NetworkState::NoAnswers, 200, 5000)
    }

    pub(super) fn refuse_connections(&mut self) -> Result<()> {
        self.network(NetworkState::Refused, 500, 3000)
    }
}
