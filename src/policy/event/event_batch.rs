//! A batch of events in a few allocations, to be handed to another thread.
//!
//! With an allocation for each event, one thread would allocate and the other free, and they would contend for the
//! allocator's locks. With a shared topic in each event, its reference count would move between two processors.

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
    /// The distinct topics.
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

/// The size of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchSize {
    /// The number of events.
    pub events: usize,
    /// Bytes of keys and payloads.
    pub bytes: usize,
    /// Bytes of headers and types.
    pub text: usize,
}

impl EventBatch {
    /// An empty batch with this capacity, or with less if memory is short.
    #[must_use]
    pub fn with_room(extent: BatchSize) -> Self {
        let mut batch = Self { entries: Vec::with_capacity(extent.events), ..Self::default() };
        let _ = batch.bytes.try_reserve(extent.bytes).and_then(|()| batch.text.try_reserve(extent.text));
        batch
    }

    /// The batch's size.
    #[must_use]
    pub fn extent(&self) -> BatchSize {
        BatchSize { events: self.entries.len(), bytes: self.bytes.len(), text: self.text.len() }
    }

    /// Adds a copy of the event.
    ///
    /// # Errors
    /// Memory is short. Nothing was added.
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

    /// The distinct topics of the events.
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
        // Most events have the same topic as the one before.
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
        fn the_events_are_those_that_were_pushed(
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
            let mut batch = EventBatch::default();
            events.iter().for_each(|event| batch.push(event).unwrap());
            for ((place, found), event) in batch.events().zip(&events) {
                prop_assert_eq!(&*batch.topics()[place], event.topic);
                prop_assert_eq!(&found, event);
            }
            prop_assert_eq!(batch.events().count(), events.len());
            let mut distinct: Vec<_> = batch.topics().to_vec();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), batch.topics().len());
        }
    }
}
