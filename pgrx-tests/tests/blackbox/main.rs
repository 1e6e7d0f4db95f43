//! The extension seen from outside: SQL goes in, Kafka records come out.
//!
//! One binary, so that all tests share one broker and one server; a test that crashes or restarts something
//! starts its own. Needs the release build in the private tree: `make test` puts it there.

mod arrival;
mod backlog;
mod concurrency;
mod crash;
mod dead_letters;
mod disk;
mod dump;
mod envelope;
mod fatal;
mod functions;
mod hostile;
mod idle;
mod install;
mod intake;
mod lab;
mod ledger;
mod life;
mod locks;
mod making_way;
mod memory;
mod metrics;
mod notify;
mod operation;
mod ordering;
mod outage;
mod own;
mod partitions;
mod privileges;
mod readme;
mod record;
mod refused;
mod relay;
mod search_path;
mod secrets;
mod security;
mod settings;
mod shutdown;
mod smoke;
mod stage;
mod stuck;
mod surroundings;
mod table;
mod topic_administration;
mod topic_grants;
mod topics;
mod transactions;
mod upgrade;
mod validation;
mod versions;
mod views;
mod wait_published;
mod wake;
