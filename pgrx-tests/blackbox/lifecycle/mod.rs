//! When a relay starts, makes way and stops.

mod arrival;
mod guest;
mod install;
mod life;
mod making_way;
mod shutdown;
mod signals;
mod sleeping;
mod standby;
mod surroundings;
mod workers;
