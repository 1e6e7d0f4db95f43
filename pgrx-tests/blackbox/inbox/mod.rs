//! The inbox: what is subscribed, by whom, and from where on.

mod crashes;
mod data_loss;
mod delivery;
mod direct;
mod durability;
mod failures;
mod full;
mod grants;
mod guest;
mod handlers;
mod ingest;
mod leases;
mod operate;
mod peek;
mod poison;
mod privileges;
mod projections;
mod receive;
mod received;
mod recreated;
mod seeks;
mod start;
mod subscribe;
mod transient;
mod unclean;
