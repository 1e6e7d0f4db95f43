//! Events on their way into the table and out of it.

mod additions;
mod backlog;
mod backlog_limit;
mod by_hand;
mod callers;
mod capture;
mod capture_moves;
mod capture_rights;
mod capture_snapshot;
mod capture_statement;
mod capture_tables;
mod expiry;
mod functions;
mod idempotency;
mod intake;
mod locks;
mod notify;
mod notify_queue;
mod scheduled;
mod sizes;
mod table;
mod transactions;
mod undeletable;
mod validation;
mod wait_published;
mod wake;
