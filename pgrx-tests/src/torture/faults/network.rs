//! Faults of the way to the real broker.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::proxy::{Proxy, Weather};
use crate::torture::kafka::Kafka;
use crate::torture::stage::Stage;

impl Stage {
    fn proxy(&self) -> Result<&Proxy> {
        match &self.kafka {
            Kafka::Real { proxy, .. } => Ok(proxy),
            Kafka::Mock(_) => bail!("there is no proxy"),
        }
    }

    fn weather(&mut self, weather: Weather, from_millis: usize, to_millis: usize) -> Result<()> {
        self.proxy()?.set_weather(weather);
        self.hold(from_millis, to_millis);
        self.proxy()?.set_weather(Weather::Fair);
        Ok(())
    }

    pub(super) fn cut(&mut self) -> Result<()> {
        for _ in 0..self.random.between(1, 4) {
            self.proxy()?.cut();
            self.hold(20, 400);
        }
        Ok(())
    }

    pub(super) fn slow_down(&mut self) -> Result<()> {
        let delay = Duration::from_millis(self.random.between(20, 300) as u64);
        self.weather(Weather::Slow(delay), 1000, 3000)
    }

    /// Cut in the end, as if the other side had forgotten the connection, or as if nothing had been.
    pub(super) fn half_open(&mut self) -> Result<()> {
        self.weather(Weather::HalfOpen, 500, 6000)?;
        if self.random.permille(500) {
            self.proxy()?.cut();
        }
        Ok(())
    }

    pub(super) fn lose_answers(&mut self) -> Result<()> {
        self.weather(Weather::NoAnswers, 200, 5000)
    }

    pub(super) fn refuse_connections(&mut self) -> Result<()> {
        self.weather(Weather::Refused, 500, 3000)
    }
}
