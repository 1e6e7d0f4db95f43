//! Schemas: what is registered, bound, refused, encoded and decoded.

mod bindings;
mod encoding;
mod hostile;
mod receiving;
mod registering;
mod rights;
