//! Owns the functions by which operators control a relay: pause, resume, restart, and requests to Kafka.
//!
//! Runs in: client backends.

use std::time::Duration;

use event_outbox_policy::kafka::admin::{self as policy, Action, Answer, FailureKind};
use pgrx::datum::JsonString;
use pgrx::prelude::*;

use crate::outbox::relay::registration;
use crate::pg::function::{Arguments, sql_function};
use crate::pg::user_context::{Owner, confine_caller_to};
use crate::pg::user_error::UserError;
use crate::worker::admin_request::{self, Unanswered};
use crate::worker::phase::Request;
use crate::worker::slots;

sql_function!(outbox_after_pause, pg_finfo_outbox_after_pause, after_pause);
sql_function!(outbox_after_delivery, pg_finfo_outbox_after_delivery, after_delivery);
sql_function!(outbox_restart_relay, pg_finfo_outbox_restart_relay, restart_relay);
sql_function!(outbox_take_over, pg_finfo_outbox_take_over, take_over);
sql_function!(outbox_ask_kafka, pg_finfo_outbox_ask_kafka, ask_kafka);
sql_function!(outbox_act_as_owner, pg_finfo_outbox_act_as_owner, act_as_owner);

/// The time for the relay to notice a request and to hand over the answer, in addition to Kafka's.
const HANDOVER: Duration = Duration::from_secs(5);

/// The longest timeout of a request to Kafka: librdkafka counts milliseconds in 32 bits.
const LONGEST: Duration = Duration::from_secs(3600);

/// Trigger after each statement that changes `outbox.paused`.
fn after_pause(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::reread_pause_at_commit();
    Some(pg_sys::Datum::from(0_usize))
}

/// Trigger after each statement that changes `outbox.topic_delivery`.
fn after_delivery(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::reread_delivery_at_commit();
    Some(pg_sys::Datum::from(0_usize))
}

/// Makes the SECURITY DEFINER function that calls this continue as the owner of a table.
fn act_as_owner(arguments: &Arguments) -> Option<pg_sys::Datum> {
    confine_caller_to(Owner::of_table(arguments.oid(0)?));
    Some(pg_sys::Datum::from(0_usize))
}

/// Restarts the relay of this database. Returns whether there is one.
fn restart_relay(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    let slot = registration::slot_here();
    if let Some(slot) = slot {
        slot.ask(Request::Restart);
        slots::all().launcher.set();
    }
    slot.is_some().into_datum()
}

/// Makes the relay of this database publish, even if one of a server that was promoted later does. Returns whether there is
/// a relay.
fn take_over(_arguments: &Arguments) -> Option<pg_sys::Datum> {
    registration::take_over().into_datum()
}

/// Sends a request to Kafka through the relay, which has a client, and returns Kafka's answer. Both are JSON
/// documents that [`policy`] defines.
fn ask_kafka(arguments: &Arguments) -> Option<pg_sys::Datum> {
    let timeout = arguments.interval(1)?;
    let timeout = Duration::from_micros(u64::try_from(timeout.as_micros().max(0)).unwrap_or(u64::MAX));
    let timeout = timeout.clamp(Duration::from_millis(1), LONGEST);
    let Some(slot) = registration::slot_here() else { no_relay().raise() };
    let request = arguments.json(0)?;
    // Checked before the request is copied.
    if request.len() > admin_request::BUFFER_BYTES {
        unanswered_error(Unanswered::TooLong(admin_request::BUFFER_BYTES)).raise();
    }
    let action: Action =
        serde_json::from_str(request).unwrap_or_else(|error| unknown_request(&error).raise());
    let request = serde_json::to_string(&policy::Request::new(action, timeout)).unwrap_or_default();
    let answer = admin_request::requests()
        .ask(registration::KIND, &request, timeout + HANDOVER, || registration::call(slot));
    let answer = answer.unwrap_or_else(|unanswered| unanswered_error(unanswered).raise());
    match serde_json::from_str(&answer) {
        Ok(Answer::Ok(topics)) => JsonString(serde_json::to_string(&topics).unwrap_or_default()).into_datum(),
        Ok(Answer::Error(failure)) => kafka_failed(failure).raise(),
        Err(_) => unanswered_error(Unanswered::WorkerEnded).raise(),
    }
}

fn unknown_request(error: &serde_json::Error) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message: "invalid request to Kafka".into(),
        detail: format!("{error}."),
        hint: "Call outbox.create_topic() or outbox.describe_topics().".into(),
    }
}

fn no_relay() -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        message: "no relay runs in this database".into(),
        detail: "Only the relay has a connection to Kafka.".into(),
        hint: "SELECT * FROM outbox.check() tells why it does not run.".into(),
    }
}

fn unanswered_error(unanswered: Unanswered) -> UserError {
    match unanswered {
        Unanswered::TooLong(most) => UserError {
            code: PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            message: "request to Kafka is too long".into(),
            detail: format!("The maximum is {most} bytes."),
            hint: "Ask about fewer topics at a time.".into(),
        },
        Unanswered::Queued => UserError {
            code: PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            message: "request to Kafka timed out before the relay accepted it".into(),
            detail: "The relay was busy with a request of another session, or all request slots were in use.".into(),
            hint: "Try again with a longer timeout; pg_stat_activity shows the sessions that call outbox.create_topic() \
                   or outbox.describe_topics()."
                .into(),
        },
        Unanswered::TimedOut => UserError {
            code: PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            message: "the relay did not answer in time".into(),
            detail: "It may be starting, or busy.".into(),
            hint: "Look at outbox.status, and try again with a longer timeout.".into(),
        },
        Unanswered::WorkerEnded => UserError {
            code: PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            message: "the relay ended before it could answer".into(),
            detail: "It is unknown whether Kafka carried out the request.".into(),
            hint: "Look at outbox.status and outbox.topics, and try again.".into(),
        },
    }
}

/// The error for a request that Kafka, or the connection to it, refused.
fn kafka_failed(policy::Failure { kind, message, detail }: policy::Failure) -> UserError {
    let (code, hint) = match kind {
        FailureKind::Exists => {
            (PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, "SELECT * FROM outbox.topics shows the topics in use.")
        }
        FailureKind::Invalid => (
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "Compare the name, the partitions, the replication factor and the configuration with the brokers' limits.",
        ),
        FailureKind::Denied => (
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "Grant the relay's Kafka user CREATE on the topic or the cluster, or DESCRIBE and DESCRIBE_CONFIGS.",
        ),
        FailureKind::Unreadable => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            "outbox.create_topic() creates topics. Or allow the server's Kafka user to read this one.",
        ),
        FailureKind::OutOfRange => {
            (PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "Pass one of these offsets.")
        }
        FailureKind::Waiting => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "Do what outbox.status says, and try again.",
        ),
        FailureKind::Misconfigured => {
            (PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, "Correct the setting, and try again.")
        }
        FailureKind::Unreachable | FailureKind::Other => (
            PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE,
            "Check event_outbox.bootstrap_servers, the network and the brokers; SELECT * FROM outbox.check() tells more.",
        ),
    };
    UserError { code, message, detail, hint: hint.into() }
}
