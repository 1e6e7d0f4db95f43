//! Handlers: background workers that receive events and call a function of SQL for them.
//!
//! Each handler process is connected as the owner of the function, so there is no superuser below the function to return
//! to. The ingest worker starts the processes ([`supervisor`]); each receives and calls in a loop ([`process`]).

pub mod process;
pub mod supervisor;
pub mod task;
