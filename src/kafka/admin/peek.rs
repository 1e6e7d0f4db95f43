//! Looks at records of a partition, as a subscription would read them: without those of aborted transactions.
//!
//! Runs in: the thread of the request.

use event_outbox_policy::kafka::admin::FailureKind;
use event_outbox_policy::kafka::peek::{Peek, Peeked, ROOM};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Failed;
use super::patience::{Patience, Trust, WANTED_CHECK};
use crate::kafka::config;
use crate::kafka::consumer::callbacks::Context;
use crate::kafka::consumer::client::Client;
use crate::kafka::consumer::message::Problem;
use crate::kafka::consumer::messages::{Assigned, Fetched};
use crate::kafka::probe::query_any_broker;
use crate::kafka::wakeup_fd::WakeupFd;

/// The number of the only partition.
const ONLY: i32 = 0;

/// Reads the records.
pub(super) fn run(config: &ClientConfig, peek: &Peek, patience: &Patience<'_>) -> Result<Peeked, Failed> {
    let wakeup = WakeupFd::new().map_err(|error| Failed {
        kind: FailureKind::Other,
        message: "could not create a Kafka client",
        detail: error.to_string(),
    })?;
    let context = Context::new(config::redactor(config));
    // Declared after the wakeup, which must outlive it.
    let mut client =
        Client::open(config, context.clone(), &wakeup).map_err(|error| Failed::to_open(config, &error))?;
    patience.retry_until_answered(|timeout| query_any_broker(client.inner(), timeout))?;
    require_partition(&client, peek, patience)?;
    let (low, high) = watermarks(&client, peek, patience)?;
    if peek.offset < low || peek.offset > high {
        return Err(out_of_range(peek.offset, low, high));
    }
    if peek.offset == high {
        return Ok(Peeked { records: Vec::new(), at_end: true });
    }

    let only = Assigned {
        number: ONLY,
        topic: peek.topic.clone(),
        topic_id: None,
        partition: peek.partition,
        offset: peek.offset,
        last_read: None,
    };
    let problems = client.assign(&[only], &wakeup);
    let (fetched, problem) = fetch(&mut client, &wakeup, peek.max, patience, problems);
    let at_end = !fetched.ends.is_empty();
    match problem {
        // Whoever goes on after these records meets the problem.
        _ if at_end || !fetched.records.is_empty() => {
            Ok(Peeked::new(fetched.records.iter(), peek.max, at_end))
        }
        None => {
            let cause = context.client_log().last_error.clone();
            let cause = cause.unwrap_or_else(|| "no record arrived in time".into());
            Err(Failed::from_code(Code::OperationTimedOut, cause))
        }
        Some(Problem::Lost(_)) => Err(out_of_range(peek.offset, low, high)),
        Some(Problem::Other(_, cause)) => Err(unreadable(cause)),
    }
}

/// The first offset that Kafka has, and the next one.
fn watermarks(client: &Client, peek: &Peek, patience: &Patience<'_>) -> Result<(i64, i64), Failed> {
    let code = |error: &KafkaError| error.rdkafka_error_code();
    let asked = patience.retry_until_trusted(
        |timeout| match client.watermarks(&peek.topic, peek.partition, timeout) {
            // The partition exists, so its leader has not heard of it yet.
            Err(error) if code(&error).is_some_and(|code| Trust::of([code]) == Trust::NotAtFirst) => {
                Ok(Err(error))
            }
            answer => answer.map(Ok),
        },
        |asked| if asked.is_ok() { Trust::Final } else { Trust::ForNow },
    )?;
    Ok(asked?)
}

/// Reads until there are enough records, the partition ends, or waiting for more makes no sense. Returns the records, and a
/// problem that kept it from reading more.
fn fetch(
    client: &mut Client,
    wakeup: &WakeupFd,
    max: usize,
    patience: &Patience<'_>,
    mut problems: Vec<Problem>,
) -> (Fetched, Option<Problem>) {
    let mut fetched = Fetched::default();
    loop {
        wakeup.clear();
        client.serve();
        let (found, is_all) = client.read(&mut fetched, ROOM);
        problems.extend(found);
        let is_enough = !is_all || fetched.records.len() >= max || !fetched.ends.is_empty();
        if is_enough || !problems.is_empty() || patience.is_over() {
            return (fetched, problems.into_iter().next());
        }
        wakeup.wait(Some(patience.time_left().min(WANTED_CHECK)));
    }
}

/// Otherwise librdkafka would wait for a topic or partition that does not exist.
fn require_partition(client: &Client, peek: &Peek, patience: &Patience<'_>) -> Result<(), Failed> {
    let (found, missing) = patience.describe(client.inner(), std::slice::from_ref(&peek.topic))?;
    match found.first() {
        Some(topic) if topic.leaderless.contains(&peek.partition) => Err(unreadable(
            "The partition has no leader: no broker that has its records runs, or may lead it.".into(),
        )),
        Some(topic) if (0..topic.partitions).contains(&peek.partition) => Ok(()),
        Some(topic) => Err(unreadable(format!("The topic has {} partitions, from 0 on.", topic.partitions))),
        None => {
            let cause = missing.into_iter().next().map(|(_, cause)| cause);
            Err(unreadable(cause.map_or_else(|| "There is no such topic.".into(), |code| code.to_string())))
        }
    }
}

fn unreadable(detail: String) -> Failed {
    Failed { kind: FailureKind::Unreadable, message: "the partition cannot be read", detail }
}

fn out_of_range(offset: i64, low: i64, high: i64) -> Failed {
    Failed {
        kind: FailureKind::OutOfRange,
        message: "the partition does not have this offset",
        detail: format!("The offset is {offset}; those that can be read go from {low} to {high}."),
    }
}
