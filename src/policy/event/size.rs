//! Owns the size of an event, and the limits that no setting can raise.

use std::fmt;

use super::topic;
use crate::delivery::error_class::ErrorClass;

/// The size in bytes of the largest event that a request can carry, and the maximum of `event_outbox.max_event_bytes`.
/// With its default settings a broker closes the connection on a request of more than 104857600 bytes
/// (`socket.request.max.bytes`). The envelope and the fields of the request itself need less than the difference.
pub const LARGEST_EVENT: usize = 100_000_000;

/// The size of an event in bytes, by part. It includes all parts that the author decides. The rest is small: the topic's
/// name, the attributes of the envelope and the frame of the record take some two thousand bytes at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Record value.
    pub payload: usize,
    /// Record key.
    pub key: usize,
    /// The author's headers: their JSON text, or the headers as sent, if that is more.
    pub headers: usize,
    /// CloudEvents `type`.
    pub event_type: usize,
    /// Media type of the payload.
    pub content_type: usize,
}

impl Size {
    /// The sum of all parts.
    #[must_use]
    pub fn total(&self) -> usize {
        self.parts().into_iter().map(|(_, bytes)| bytes).sum()
    }

    fn parts(&self) -> [(&'static str, usize); 5] {
        [
            ("payload", self.payload),
            ("key", self.key),
            ("headers", self.headers),
            ("type", self.event_type),
            ("content type", self.content_type),
        ]
    }
}

/// For example `36 bytes: payload 28, headers 8`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.total())?;
        let mut mark = ':';
        for (part, bytes) in self.parts().into_iter().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{mark} {part} {bytes}")?;
            mark = ',';
        }
        Ok(())
    }
}

/// Why an event is refused: the class and the text.
pub type Reason = (ErrorClass, String);

/// Why an event can never be sent to Kafka. Such an event was inserted without the checks.
#[must_use]
pub fn unsendable(topic_bytes: usize, size: Size) -> Option<Reason> {
    let bytes = topic::MAX_TOPIC_BYTES;
    if topic_bytes > bytes {
        Some((
            ErrorClass::InvalidTopic,
            format!("the topic name has {topic_bytes} bytes; Kafka allows {bytes}"),
        ))
    } else if size.total() > LARGEST_EVENT {
        Some((ErrorClass::TooLarge, format!("the event has {size}; a request can carry {LARGEST_EVENT}")))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_named() {
        let size = Size { payload: 28, headers: 7, content_type: 1, ..Size::default() };
        assert_eq!(size.to_string(), "36 bytes: payload 28, headers 7, content type 1");
        assert_eq!(Size::default().to_string(), "0 bytes");
    }

    #[test]
    fn events_that_no_request_can_carry_are_unsendable() {
        let large = Size { payload: LARGEST_EVENT, ..Size::default() };
        assert_eq!(unsendable(249, large), None);
        let class = |topic, size| unsendable(topic, size).map(|(class, _)| class);
        assert_eq!(class(249, Size { key: 1, ..large }), Some(ErrorClass::TooLarge));
        assert_eq!(class(250, Size::default()), Some(ErrorClass::InvalidTopic));
    }
}
