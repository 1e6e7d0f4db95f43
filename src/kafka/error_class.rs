//! Whose fault an error of Kafka is. The codes are those of librdkafka's `rd_kafka_resp_err_t` and of
//! the Kafka protocol guide's table of errors.

use event_outbox_policy::delivery::error_class::ErrorClass;
use event_outbox_policy::delivery::outcome::{Failure, Outcome};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Sorts an error of one message.
#[must_use]
pub fn classify(code: Code) -> Failure {
    match code {
        // *This* event is bad, and would be refused again.
        Code::InvalidTopic
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::TopicAuthorizationFailed
        | Code::InvalidArgument => Failure::Refused,

        // A verdict on the batch, of which one event is bad.
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::PolicyViolation => Failure::Suspect,

        // The producer cannot go on, or was given up.
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::State
        | Code::NotConfigured
        | Code::CriticalSystemResource
        | Code::PurgeQueue
        | Code::PurgeInflight => Failure::Stopped,

        // A batch-mate's failure, or a gap in the sequence that another's failure left.
        Code::InvalidDifferentRecord
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::ProducerFenced
        | Code::Fenced
        | Code::InvalidProducerIdMapping
        // The way to the broker, or the broker itself.
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
        // The cluster: leaders, replicas, disks, quotas, rights of the whole producer.
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
        // Corrupted on the way.
        | Code::InvalidMessage
        | Code::BadMessage
        // A queue that is full for the moment.
        | Code::QueueFull => Failure::Outage,

        // Whatever else there is or will be: waiting loses nothing, while an attempt counted wrongly
        // would in the end put a good event aside.
        _ => Failure::Outage,
    }
}

/// The kind of a refusal, as `error_class` tells it.
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

/// What the code means, in librdkafka's words, and the code itself.
#[must_use]
pub fn describe(code: Code) -> String {
    // The crate writes it the other way round.
    let (name, text) = (format!("{code:?}"), code.to_string());
    let words = text.strip_prefix(&name).and_then(|rest| rest.trim().strip_prefix('(')?.strip_suffix(')'));
    words.map_or_else(|| text.clone(), |words| format!("{words} ({name})"))
}

/// The outcome of a message that failed with this error.
#[must_use]
pub fn outcome(error: &KafkaError) -> Outcome {
    match error.rdkafka_error_code() {
        Some(code) => Outcome::Failed { failure: classify(code), class: class(code), error: describe(code) },
        // A topic that is no C string: nothing that Kafka could take.
        None => Outcome::Failed {
            failure: Failure::Refused,
            class: ErrorClass::InvalidTopic,
            error: error.to_string(),
        },
    }
}
