//! The broker that tests may stop, kill and freeze.

use std::sync::{Mutex, MutexGuard, PoisonError};

use event_outbox_lab::kafka::BrokerOptions;
use event_outbox_lab::{Broker, Result, wait};

use crate::support::database::DEADLINE;

/// One broker that these tests use one after the other. It runs at first, and does not auto-create topics.
pub struct FaultyBroker(MutexGuard<'static, Option<Broker>>);

impl FaultyBroker {
    /// Waits until no other test uses the broker.
    pub fn take() -> Result<Self> {
        static BROKER: Mutex<Option<Broker>> = Mutex::new(None);
        // A failed test may have left the broker in any state.
        let mut broker = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *broker {
            None => {
                *broker = Some(BrokerOptions::default().set("auto.create.topics.enable", "false").start()?)
            }
            Some(broker) if broker.pid().is_ok() => {
                broker.resume()?;
                wait::until("the broker to answer", DEADLINE, || broker.answers().then_some(()))?;
            }
            Some(broker) => broker.start()?,
        }
        Ok(Self(broker))
    }
}

impl std::ops::Deref for FaultyBroker {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        self.0.as_ref().expect("it is there since take()")
    }
}

impl std::ops::DerefMut for FaultyBroker {
    fn deref_mut(&mut self) -> &mut Broker {
        self.0.as_mut().expect("it is there since take()")
    }
}
