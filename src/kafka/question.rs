//! Owns a question to Kafka that is answered later. Who asks goes on with other work meanwhile, or waits.
//!
//! Runs in: any thread that owns a client.

use std::ffi::CString;
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka::bindings as rdsys;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::error_class;
use super::wakeup_fd::WakeupFd;

/// A name that no topic can have.
const NO_TOPIC: &str = ".";

/// A question on its way. librdkafka waits for a broker that can take it, and drops the answer if nobody waits for it any
/// more.
#[derive(Debug)]
pub struct Question {
    queue: *mut rdsys::rd_kafka_queue_t,
    asked_at: Instant,
}

/// What came back: Kafka's answer, or why there is none.
#[derive(Debug)]
pub struct Answer(*mut rdsys::rd_kafka_event_t);

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The first one that Kafka has.
    Earliest,
    /// The one after the last record that every consumer may read: the next one, or the first of a transaction that is open.
    Latest,
    /// The one after the last record, also of a transaction that is open.
    End,
    /// That of the first record with this timestamp or a later one, in milliseconds since 1970.
    Timestamp(i64),
}

impl At {
    fn spec(self) -> i64 {
        match self {
            // RD_KAFKA_OFFSET_SPEC_EARLIEST and RD_KAFKA_OFFSET_SPEC_LATEST.
            Self::Earliest => -2,
            Self::Latest | Self::End => -1,
            Self::Timestamp(millis) => millis.max(0),
        }
    }

    fn isolation(self) -> rdsys::rd_kafka_IsolationLevel_t {
        match self {
            Self::End => rdsys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            Self::Earliest | Self::Latest | Self::Timestamp(_) => {
                rdsys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED
            }
        }
    }
}

impl Question {
    /// Asks which of these topics exist. Creates none. `patience` is how long librdkafka waits for the answer.
    ///
    /// # Safety
    /// The client must be alive, and outlive the question.
    #[must_use]
    pub unsafe fn about_topics(client: *mut rdsys::rd_kafka_t, names: &[String], patience: Duration) -> Self {
        let texts: Vec<CString> = names.iter().filter_map(|name| CString::new(&**name).ok()).collect();
        let mut pointers: Vec<_> = texts.iter().map(|name| name.as_ptr()).collect();
        let kind = rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        // SAFETY: the client is alive. The names live through the call, which copies them. The collection is destroyed here.
        unsafe {
            Self::ask(client, kind, patience, |options, queue| {
                let asked =
                    rdsys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                rdsys::rd_kafka_DescribeTopics(client, asked, options, queue);
                rdsys::rd_kafka_TopicCollection_destroy(asked);
            })
        }
    }

    /// Asks whether Kafka answers: for a topic that cannot be, so that it creates none. librdkafka's question for the brokers
    /// alone (`rd_kafka_DescribeCluster()`, 2.12.1) ends the process when the answer names no broker, as that of one does which
    /// has just come back: its result is NULL then, and is used.
    ///
    /// # Safety
    /// As [`Question::about_topics`].
    #[must_use]
    pub unsafe fn about_brokers(client: *mut rdsys::rd_kafka_t, patience: Duration) -> Self {
        // SAFETY: as promised by the caller.
        unsafe { Self::about_topics(client, &[NO_TOPIC.to_owned()], patience) }
    }

    /// Asks for offsets of partitions.
    ///
    /// # Safety
    /// As [`Question::about_topics`].
    #[must_use]
    pub unsafe fn about_offsets(
        client: *mut rdsys::rd_kafka_t,
        partitions: &[(String, i32)],
        at: At,
        patience: Duration,
    ) -> Self {
        let kind = rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        // SAFETY: the client is alive. The call copies the list, which is destroyed here, as is the error. An error says
        // that the option does not fit the question, which it does.
        unsafe {
            Self::ask(client, kind, patience, |options, queue| {
                let length = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
                let asked = rdsys::rd_kafka_topic_partition_list_new(length);
                for (topic, partition) in partitions {
                    if let Ok(name) = CString::new(&**topic) {
                        let added =
                            rdsys::rd_kafka_topic_partition_list_add(asked, name.as_ptr(), *partition);
                        (*added).offset = at.spec();
                    }
                }
                let error = rdsys::rd_kafka_AdminOptions_set_isolation_level(options, at.isolation());
                if !error.is_null() {
                    rdsys::rd_kafka_error_destroy(error);
                }
                rdsys::rd_kafka_ListOffsets(client, asked, options, queue);
                rdsys::rd_kafka_topic_partition_list_destroy(asked);
            })
        }
    }

    /// # Safety
    /// As [`Question::about_topics`].
    unsafe fn ask(
        client: *mut rdsys::rd_kafka_t,
        kind: rdsys::rd_kafka_admin_op_t,
        patience: Duration,
        send: impl FnOnce(*mut rdsys::rd_kafka_AdminOptions_t, *mut rdsys::rd_kafka_queue_t),
    ) -> Self {
        // SAFETY: the client is alive. The options are destroyed here, the queue when the question is dropped.
        unsafe {
            let queue = rdsys::rd_kafka_queue_new(client);
            let options = rdsys::rd_kafka_AdminOptions_new(client, kind);
            rdsys::rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), ptr::null_mut(), 0);
            send(options, queue);
            rdsys::rd_kafka_AdminOptions_destroy(options);
            Self { queue, asked_at: Instant::now() }
        }
    }

    /// Makes the answer set this wakeup, which must outlive the question.
    #[must_use]
    pub fn waking(self, wakeup: &WakeupFd) -> Self {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: this object owns the queue. librdkafka copies the bytes, and writes them while the queue lives.
        unsafe {
            rdsys::rd_kafka_queue_io_event_enable(self.queue, wakeup.fd(), one.as_ptr().cast(), one.len());
        };
        // An answer that came before set nothing.
        wakeup.set();
        self
    }

    /// How long ago it was asked.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.asked_at.elapsed()
    }

    /// What has come back, if anything comes within `timeout`.
    #[must_use]
    pub fn answer_within(&self, timeout: Duration) -> Option<Answer> {
        // SAFETY: this object owns the queue.
        let event = unsafe { rdsys::rd_kafka_queue_poll(self.queue, millis(timeout)) };
        (!event.is_null()).then_some(Answer(event))
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // SAFETY: nothing else refers to the queue. librdkafka destroys an event that arrives when it is gone.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) }
    }
}

impl Answer {
    /// The error of the whole question; `NoError` if Kafka answered it.
    #[must_use]
    pub fn code(&self) -> Code {
        // SAFETY: this object owns the event.
        Code::from(unsafe { rdsys::rd_kafka_event_error(self.0) })
    }

    /// Whether nobody answered.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        error_class::is_silence(self.code())
    }

    /// librdkafka's event.
    #[must_use]
    pub fn event(&self) -> *mut rdsys::rd_kafka_event_t {
        self.0
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: this object owns the event.
        unsafe { rdsys::rd_kafka_event_destroy(self.0) }
    }
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
