//! Schemas: what is registered, bound, refused, encoded and decoded.

mod bindings;
mod encoding;
mod hostile;
mod receiving;
pub mod references;
mod registering;
mod rights;
