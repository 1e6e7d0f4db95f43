//! Owns a library over Postgres. It names no capability.
//!
//! Runs in: any process.

pub mod atomic_enum;
pub mod backend;
pub mod background_workers;
pub mod bulk_insert;
pub mod catalog;
mod clock;
pub mod compat;
pub mod condition;
pub mod durability;
pub mod for_caller;
pub mod function;
pub mod held_locks;
pub mod image;
pub mod index_scan;
pub mod indexed;
pub mod json_text;
pub mod json_value;
pub mod jsonb;
pub mod plan;
pub mod prepared;
pub mod refusal;
pub mod relation;
pub mod row_lock;
pub mod server;
pub mod session_format;
pub mod shmem;
pub mod snapshot;
pub mod spi;
pub mod status_row;
pub mod subtransaction;
pub mod trigger;
pub mod unique;
pub mod user_context;
pub mod user_error;
pub mod utility_hook;
pub mod varlena;
pub mod wait_set;
pub mod watch;

pub use clock::now;
pub use server::{is_binary_upgrade, require_preloading};
