//! The inbox: what is subscribed, by whom, and from where on.

mod failures;
mod grants;
mod handlers;
mod ingest;
mod leases;
mod operate;
mod peek;
mod receive;
mod received;
mod subscribe;
