//! What an event weighs on its way to Kafka.

use std::fmt;

use super::topic;
use crate::delivery::error_class::ErrorClass;

/// The most bytes of an event that any request can carry, and the most that `event_outbox.max_event_bytes` can be. A
/// broker that is set up as usual closes the connection on a request of more than 104857600 bytes
/// (`socket.request.max.bytes`); the envelope and the fields of the request itself need less than what is left.
pub const LARGEST_EVENT: usize = 100_000_000;

/// The bytes of an event, by part: all that its author decides. What comes on top is small: the name of the topic,
/// the attributes of the envelope and the frame of the record, some two thousand bytes at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Record value.
    pub payload: usize,
    /// Record key.
    pub key: usize,
    /// The author's headers: their JSON text, or what is sent if that is more.
    pub headers: usize,
    /// CloudEvents `type`.
    pub event_type: usize,
    /// Media type of the payload.
    pub content_type: usize,
}

impl Size {
    /// All parts together.
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

/// As in `36 bytes: payload 28, headers 8`.
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

/// Why an event is refused: the class, and in words.
pub type Reason = (ErrorClass, String);

/// Why Kafka can never be asked to take an event, which has come in past the checks.
#[must_use]
pub fn unsendable(topic_bytes: usize, size: Size) -> Option<Reason> {
    let bytes = topic::MAX_TOPIC_BYTES;
    if topic_bytes > bytes {
        Some((
            ErrorClass::InvalidTopic,
            format!("the topic's name has {topic_bytes} bytes, Kafka allows {bytes}"),
        ))
    } else if size.total() > LARGEST_EVENT {
        Some((ErrorClass::TooLarge, format!("it has {size}, a request can carry {LARGEST_EVENT}")))
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
    fn what_no_request_can_carry() {
        let large = Size { payload: LARGEST_EVENT, ..Size::default() };
        assert_eq!(unsendable(249, large), None);
        let class = |topic, size| unsendable(topic, size).map(|(class, _)| class);
        assert_eq!(class(249, Size { key: 1, ..large }), Some(ErrorClass::TooLarge));
        assert_eq!(class(250, Size::default()), Some(ErrorClass::InvalidTopic));
    }
}
