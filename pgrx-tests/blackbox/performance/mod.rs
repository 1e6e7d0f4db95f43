//! What a relay costs.

mod idle;
mod memory;
