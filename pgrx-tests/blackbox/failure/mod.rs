//! Crashes, outages and refusals.

mod at_most_once;
mod crash;
mod dead_letter_retention;
mod dead_letters;
mod disk;
mod durability;
mod exactly_once;
mod exactly_once_apart;
mod exactly_once_fences;
mod exactly_once_hanging;
mod exactly_once_setup;
mod fatal;
mod outage;
mod progress;
mod refusal_log;
mod refused;
mod slow_broker;
mod stalled_topics;
