//! The rules of the Schema Registry's client: addresses, requests, answers, failures and their pauses. The interface is the one
//! that Confluent's registry has, and others have like it.

pub mod answer;
pub mod connection;
pub mod failure;
pub mod references;
pub mod registration;
pub mod request;
pub mod url;
