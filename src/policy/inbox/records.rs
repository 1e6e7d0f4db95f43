//! Records that were read from Kafka, packed into one buffer, and the form in which headers are stored.
//!
//! Headers are stored as a sequence of name and value, each with its length in front: a base-128 varint, least significant
//! group first. The length of a value is raised by one, and 0 stands for a null value.

/// Records of one source, in the order in which they were read.
#[derive(Debug, Default, Clone)]
pub struct RecordBatch {
    buffer: Vec<u8>,
    records: Vec<Place>,
}

/// Where the parts of a record lie in the buffer: key, value and headers, one after the other.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    start: usize,
    key: Option<usize>,
    value: Option<usize>,
    headers: usize,
}

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The number of its partition within the subscription.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in milliseconds since 1970; `None` if it has none.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, packed; empty if it has none. See [`headers`].
    pub headers: &'a [u8],
}

impl RecordRef<'_> {
    /// The bytes that it has.
    #[must_use]
    pub fn length(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.len()
    }
}

impl RecordBatch {
    /// An empty batch with room for this many records and bytes.
    #[must_use]
    pub fn with_capacity(records: usize, bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes), records: Vec::with_capacity(records) }
    }

    /// Adds a record, whose headers are packed already.
    pub fn push(&mut self, record: RecordRef<'_>) {
        self.push_with_headers(record, std::iter::empty());
    }

    /// Adds a record with further headers, which are packed here.
    pub fn push_with_headers<'h>(
        &mut self,
        record: RecordRef<'_>,
        headers: impl IntoIterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) {
        let start = self.buffer.len();
        for part in [record.key, record.value].into_iter().flatten() {
            self.buffer.extend_from_slice(part);
        }
        let packed = self.buffer.len();
        self.buffer.extend_from_slice(record.headers);
        headers.into_iter().for_each(|(name, value)| pack_header(&mut self.buffer, name, value));
        self.records.push(Place {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            start,
            key: record.key.map(<[u8]>::len),
            value: record.value.map(<[u8]>::len),
            headers: self.buffer.len() - packed,
        });
    }

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The bytes that the batch takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.capacity() + self.records.capacity() * size_of::<Place>()
    }

    /// The records, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> + Clone {
        self.records.iter().map(|place| self.at(place))
    }

    /// The record with this number, counted from 0.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<RecordRef<'_>> {
        self.records.get(number).map(|place| self.at(place))
    }

    fn at(&self, place: &Place) -> RecordRef<'_> {
        let (key, rest) = self.buffer[place.start..].split_at(place.key.unwrap_or(0));
        let (value, rest) = rest.split_at(place.value.unwrap_or(0));
        RecordRef {
            partition: place.partition,
            offset: place.offset,
            timestamp_ms: place.timestamp_ms,
            key: place.key.map(|_| key),
            value: place.value.map(|_| value),
            headers: &rest[..place.headers],
        }
    }

    /// Keeps only the records of which `is_kept` says so, by their numbers. The others take no memory any more.
    pub fn retain(&mut self, mut is_kept: impl FnMut(usize) -> bool) {
        let (mut number, mut end) = (0, 0);
        let buffer = &mut self.buffer;
        self.records.retain_mut(|place| {
            let keeps = is_kept(number);
            number += 1;
            if keeps {
                let length = place.length();
                buffer.copy_within(place.start..place.start + length, end);
                place.start = end;
                end += length;
            }
            keeps
        });
        buffer.truncate(end);
    }
}

impl Place {
    fn length(&self) -> usize {
        self.key.unwrap_or(0) + self.value.unwrap_or(0) + self.headers
    }
}

/// Appends a header in the stored form.
pub fn pack_header(buffer: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    pack_length(buffer, name.len());
    buffer.extend_from_slice(name);
    pack_length(buffer, value.map_or(0, |value| value.len() + 1));
    buffer.extend_from_slice(value.unwrap_or_default());
}

fn pack_length(buffer: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        buffer.push(length as u8 | 0x80);
        length >>= 7;
    }
    buffer.push(length as u8);
}

/// Reads headers in the stored form, each with its name and value. What is damaged ends the sequence.
#[must_use]
pub fn headers(packed: &[u8]) -> Headers<'_> {
    Headers { rest: packed }
}

/// See [`headers`].
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    fn length(&mut self) -> Option<usize> {
        let mut length = 0_u64;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(length).ok();
            }
        }
        None
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn header(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let length = self.length()?;
        let name = self.bytes(length)?;
        let value = match self.length()? {
            0 => None,
            more => Some(self.bytes(more - 1)?),
        };
        Some((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.header();
        if header.is_none() {
            self.rest = &[];
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(any::<u8>(), 0..8), vec(any::<u8>(), 120..300)]
    }

    type Record = (i32, i64, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn record() -> impl Strategy<Value = Record> {
        (
            any::<i32>(),
            any::<i64>(),
            any::<Option<i64>>(),
            option::of(bytes()),
            option::of(bytes()),
            vec((bytes(), option::of(bytes())), 0..4),
        )
    }

    proptest! {
        #[test]
        fn records_are_read_back(records in vec(record(), 0..10)) {
            let mut batch = RecordBatch::with_capacity(2, 10);
            for (partition, offset, timestamp_ms, key, value, headers) in &records {
                let (key, value) = (key.as_deref(), value.as_deref());
                let record = RecordRef {
                    partition: *partition, offset: *offset, timestamp_ms: *timestamp_ms, key, value, headers: &[],
                };
                batch.push_with_headers(record, headers.iter().map(|(name, value)| (&**name, value.as_deref())));
            }
            let read: Vec<Record> = batch.iter().map(|record| {
                let owned = headers(record.headers).map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)));
                (record.partition, record.offset, record.timestamp_ms, record.key.map(<[u8]>::to_vec),
                 record.value.map(<[u8]>::to_vec), owned.collect())
            }).collect();
            prop_assert_eq!(read, records);
        }

        #[test]
        fn those_that_are_kept_stay_as_they_are(records in vec(record(), 0..12), kept in vec(any::<bool>(), 12)) {
            let mut batch = RecordBatch::default();
            for (partition, offset, timestamp_ms, key, value, headers) in &records {
                let (key, value) = (key.as_deref(), value.as_deref());
                let record = RecordRef {
                    partition: *partition, offset: *offset, timestamp_ms: *timestamp_ms, key, value, headers: &[],
                };
                batch.push_with_headers(record, headers.iter().map(|(name, value)| (&**name, value.as_deref())));
            }
            let whole = batch.clone();
            batch.retain(|number| kept[number]);
            let expected: Vec<_> = whole.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(record, _)| record).collect();
            prop_assert_eq!(batch.iter().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(batch.buffer.len(), expected.iter().map(|of| of.length()).sum::<usize>());
            prop_assert_eq!(batch.get(0), expected.first().copied());
        }

        #[test]
        fn damaged_headers_end(packed in vec(any::<u8>(), 0..40)) {
            let read: usize = headers(&packed).map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
            prop_assert!(read <= packed.len());
        }
    }
}
