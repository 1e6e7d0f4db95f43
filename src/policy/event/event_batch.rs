//! Events packed into few pieces of memory, for their way to another thread.
//!
//! A piece of memory for each event would be made by one thread and freed by the other, where the allocator's locks meet;
//! and a shared topic's count would go back and forth between two processors.

use std::borrow::Cow;
use std::collections::{HashMap, TryReserveError};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::draft::Event;

/// Events in the order in which they were pushed.
#[derive(Debug, Default)]
pub struct EventBatch {
    entries: Vec<Entry>,
    /// Keys and payloads.
    bytes: Vec<u8>,
    /// Headers and types.
    text: String,
    /// Each once.
    topics: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize, RandomState>,
}

/// An event whose parts lie in `bytes` and `text`.
#[derive(Debug)]
struct Entry {
    id: i64,
    event_id: [u8; 16],
    emitted_at: i64,
    record_time: i64,
    /// Its place in `topics`.
    topic: usize,
    partition: Option<i32>,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Option<Range<usize>>,
    event_type: Option<Range<usize>>,
    content_type: Option<Range<usize>>,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchSize {
    /// Number of events.
    pub events: usize,
    /// Bytes of keys and payloads.
    pub bytes: usize,
    /// Bytes of headers and types.
    pub text: usize,
}

impl EventBatch {
    /// With room for so much, before memory must grow; with less, if there is none.
    #[must_use]
    pub fn with_room(extent: BatchSize) -> Self {
        let mut packed = Self { entries: Vec::with_capacity(extent.events), ..Self::default() };
        let _ = packed.bytes.try_reserve(extent.bytes).and_then(|()| packed.text.try_reserve(extent.text));
        packed
    }

    /// How much there is in it.
    #[must_use]
    pub fn extent(&self) -> BatchSize {
        BatchSize { events: self.entries.len(), bytes: self.bytes.len(), text: self.text.len() }
    }

    /// Adds a copy of the event.
    ///
    /// # Errors
    /// There is no memory for it, and nothing was added.
    pub fn push(&mut self, event: &Event<'_>) -> Result<(), TryReserveError> {
        let bytes = |part: &Option<Cow<'_, [u8]>>| part.as_ref().map_or(0, |bytes| bytes.len());
        let text = |part: &Option<Cow<'_, str>>| part.as_ref().map_or(0, |text| text.len());
        self.bytes.try_reserve(bytes(&event.key) + bytes(&event.payload))?;
        self.text.try_reserve(text(&event.headers) + text(&event.event_type) + text(&event.content_type))?;
        let entry = Entry {
            id: event.id,
            event_id: event.event_id,
            emitted_at: event.emitted_at,
            record_time: event.record_time,
            topic: self.place(event.topic),
            partition: event.partition,
            key: self.put_bytes(event.key.as_deref()),
            payload: self.put_bytes(event.payload.as_deref()),
            headers: self.put_text(event.headers.as_deref()),
            event_type: self.put_text(event.event_type.as_deref()),
            content_type: self.put_text(event.content_type.as_deref()),
        };
        self.entries.push(entry);
        Ok(())
    }

    /// The events, each with the place of its topic in [`EventBatch::topics`].
    pub fn events(&self) -> impl Iterator<Item = (usize, Event<'_>)> {
        self.entries.iter().map(|entry| (entry.topic, self.event(entry)))
    }

    /// Their topics, each once.
    #[must_use]
    pub fn topics(&self) -> &[Arc<str>] {
        &self.topics
    }

    fn event(&self, entry: &Entry) -> Event<'_> {
        let bytes = |part: &Option<Range<usize>>| part.clone().map(|part| Cow::Borrowed(&self.bytes[part]));
        let text = |part: &Option<Range<usize>>| part.clone().map(|part| Cow::Borrowed(&self.text[part]));
        Event {
            id: entry.id,
            event_id: entry.event_id,
            emitted_at: entry.emitted_at,
            record_time: entry.record_time,
            topic: &self.topics[entry.topic],
            partition: entry.partition,
            key: bytes(&entry.key),
            payload: bytes(&entry.payload),
            headers: text(&entry.headers),
            event_type: text(&entry.event_type),
            content_type: text(&entry.content_type),
        }
    }

    fn put_bytes(&mut self, part: Option<&[u8]>) -> Option<Range<usize>> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(part?);
        Some(begin..self.bytes.len())
    }

    fn put_text(&mut self, part: Option<&str>) -> Option<Range<usize>> {
        let begin = self.text.len();
        self.text.push_str(part?);
        Some(begin..self.text.len())
    }

    fn place(&mut self, topic: &str) -> usize {
        // Most events go where the one before went.
        let last = self.entries.last().map(|entry| entry.topic).filter(|last| *self.topics[*last] == *topic);
        if let Some(place) = last.or_else(|| self.places.get(topic).copied()) {
            return place;
        }
        let (place, topic) = (self.topics.len(), Arc::<str>::from(topic));
        self.topics.push(topic.clone());
        self.places.insert(topic, place);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Written = (u8, Option<i32>, [Option<Vec<u8>>; 2], [Option<String>; 3]);

    fn event<'a>(n: usize, topics: &'a [String], written: &'a Written) -> Event<'a> {
        let (topic, partition, [key, payload], [headers, event_type, content_type]) = written;
        Event {
            id: n as i64,
            event_id: [n as u8; 16],
            emitted_at: -(n as i64),
            record_time: -i64::from(*topic),
            topic: &topics[usize::from(*topic)],
            partition: *partition,
            key: key.as_deref().map(Cow::from),
            payload: payload.as_deref().map(Cow::from),
            headers: headers.as_deref().map(Cow::from),
            event_type: event_type.as_deref().map(Cow::from),
            content_type: content_type.as_deref().map(Cow::from),
        }
    }

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(
            written in prop::collection::vec(
                (
                    0..5_u8,
                    any::<Option<i32>>(),
                    prop::array::uniform2(prop::option::of(prop::collection::vec(any::<u8>(), 0..9))),
                    prop::array::uniform3(prop::option::of("\\PC{0,5}")),
                ),
                0..20,
            ),
        ) {
            let topics = ["a", "b", "ab", "c", "d"].map(str::to_owned);
            let events: Vec<_> = written.iter().enumerate().map(|(n, written)| event(n, &topics, written)).collect();
            let mut packed = EventBatch::default();
            events.iter().for_each(|event| packed.push(event).unwrap());
            for ((place, unpacked), event) in packed.events().zip(&events) {
                prop_assert_eq!(&*packed.topics()[place], event.topic);
                prop_assert_eq!(&unpacked, event);
            }
            prop_assert_eq!(packed.events().count(), events.len());
            let mut distinct: Vec<_> = packed.topics().to_vec();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), packed.topics().len());
        }
    }
}
