//! What a relay costs, and a look at it.

mod idle;
mod memory;
mod outage;
mod plans;
