//! Classifies Kafka's errors: by their cause, and by the classes that SQL shows. The codes are those of librdkafka's
//! `rd_kafka_resp_err_t` and of the table of errors in the Kafka protocol guide.
//!
//! Runs in: the Kafka thread, and the threads of admin requests.

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::outcome::{Failure, Outcome};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Whether Kafka, or librdkafka, gives this answer only for a moment, so that the question is worth asking again: a leader is
/// being elected, or a broker has not heard yet of a topic that has just been created.
#[must_use]
pub fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::KafkaStorageError
            | Code::UnknownTopicId
            | Code::BrokerNotAvailable
            | Code::BrokerDestroy
            | Code::DestroyBroker
            | Code::NetworkException
            | Code::RequestTimedOut
            | Code::NotController
            | Code::RebootstrapRequired
    )
}

/// Whether it means that nobody answered. Otherwise a broker has, if only with a refusal, or cannot be asked such a thing.
/// librdkafka's own errors are negative, Kafka's are not.
#[must_use]
pub fn is_silence(code: Code) -> bool {
    code == Code::RequestTimedOut || (code as i32) < 0 && code != Code::UnsupportedFeature
}

/// The kind of failure that an error of one message is.
#[allow(clippy::too_many_lines, reason = "a table")]
#[must_use]
pub fn classify(code: Code) -> Failure {
    match code {
        // *This* event is bad and would be refused again.
        Code::InvalidTopic
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::TopicAuthorizationFailed
        | Code::InvalidArgument => Failure::Refused,

        // The batch was refused, because one of its events is bad.
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation => Failure::Suspect,

        // The producer cannot continue, or was purged.
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::State
        | Code::NotConfigured
        | Code::CriticalSystemResource
        | Code::PurgeQueue
        | Code::PurgeInflight => Failure::Stopped,

        // Another event of the batch failed, or an earlier failure left a gap in the sequence.
        Code::InvalidDifferentRecord
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::ProducerFenced
        | Code::Fenced
        | Code::InvalidProducerIdMapping
        // The connection to the broker failed, or the broker itself.
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::SSL
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::NetworkException
        | Code::BrokerNotAvailable
        | Code::UnknownBroker
        | Code::BrokerDestroy
        | Code::DestroyBroker
        // The cluster failed: leaders, replicas, disks, quotas, access rights of the whole producer.
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::ReplicaNotAvailable
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        | Code::NotController
        | Code::StaleControllerEpoch
        | Code::ThrottlingQuotaExceeded
        | Code::ClusterAuthorizationFailed
        // The request was corrupted in transit.
        | Code::InvalidMessage
        | Code::BadMessage
        // A queue is full for the moment.
        | Code::QueueFull => Failure::Outage,

        // All other codes, including future ones: waiting loses nothing, whereas attempts that are counted wrongly
        // would finally move a good event to the dead letters.
        _ => Failure::Outage,
    }
}

/// The class of a refusal, as SQL shows it in `error_class`.
fn class(code: Code) -> ErrorClass {
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            ErrorClass::TooLarge
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition => ErrorClass::UnknownTopic,
        Code::UnknownPartition => ErrorClass::UnknownPartition,
        Code::TopicAuthorizationFailed => ErrorClass::NotAuthorized,
        Code::InvalidTopic => ErrorClass::InvalidTopic,
        Code::InvalidTimestamp => ErrorClass::InvalidTimestamp,
        Code::InvalidRecord | Code::PolicyViolation | Code::InvalidArgument => ErrorClass::InvalidRecord,
        _ => ErrorClass::Other,
    }
}

/// librdkafka's text for the code, and the code's name.
#[must_use]
pub fn describe(code: Code) -> String {
    // The crate writes the name first.
    let (name, text) = (format!("{code:?}"), code.to_string());
    let words = text.strip_prefix(&name).and_then(|rest| rest.trim().strip_prefix('(')?.strip_suffix(')'));
    words.map_or_else(|| text.clone(), |words| format!("{words} ({name})"))
}

/// The outcome of a message that failed with this error.
#[must_use]
pub fn outcome(error: &KafkaError) -> Outcome {
    match error.rdkafka_error_code() {
        Some(code) => Outcome::Failed { failure: classify(code), class: class(code), error: describe(code) },
        // The topic is not a valid C string, so Kafka cannot accept it.
        None => Outcome::Failed {
            failure: Failure::Refused,
            class: ErrorClass::InvalidTopic,
            error: error.to_string(),
        },
    }
}
