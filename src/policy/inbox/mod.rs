//! What a subscription receives, in which order, and what becomes of events that fail.

pub mod attributes;
pub mod charge;
pub mod data_loss;
pub mod in_flight;
pub mod jsonb;
pub mod jsonb_image;
pub mod lane;
pub mod lanes;
pub mod plan;
pub mod progress;
pub mod projection;
pub mod records;
pub mod retention;
pub mod structured;
pub mod topics;
