//! What librdkafka is told, and what it tells.

pub mod admin;
pub mod producer;
pub mod properties;
pub mod property_rules;
pub mod redactor;
pub mod statistics;
