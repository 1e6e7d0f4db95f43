//! The records by which a relay that delivers exactly once tells later relays what it has published.
//!
//! They lie in one compacted partition. Each transaction ends with a *marker*, which lists the events that are in Kafka and
//! may still be in the table. A relay that starts writes a *claim*, which names it as the one that publishes. Both have keys
//! that begin with the server and the database; those of earlier timelines are read as well, because a promoted standby
//! goes on where they end.

use std::collections::BTreeMap;
use std::fmt;

/// The version of the values' form.
const VERSION: u8 = 1;

/// The beginning of all transactional ids.
pub const PREFIX: &str = "event_outbox-";

/// The ending of a claim's key.
const CLAIM: &str = "claim";

/// The part of an event's identity that a marker holds. A database that was restored gives ids to other events, so an id
/// alone names none. These are the bytes that a version 7 UUID has from the generator of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPart([u8; 8]);

impl EventPart {
    /// The part of this event's identity.
    #[must_use]
    pub fn of(event_id: &[u8; 16]) -> Self {
        let [.., a, b, c, d, e, f, g, h] = *event_id;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// The relay's place: what its records and its transactional ids are named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The system identifier of the server; copies of its files share it.
    pub system: u64,
    /// The oid of the database.
    pub database: u32,
    /// The server's timeline, which grows with each promotion.
    pub timeline: u32,
}

impl Owner {
    /// The transactional ids of its two producers. A relay that starts fences the former one with the same ids, so the timeline
    /// is no part of them.
    #[must_use]
    pub fn transactional_ids(&self) -> [String; 2] {
        let id = format!("{PREFIX}{}-{}", self.system, self.database);
        [id.clone(), id + "-2"]
    }

    /// The key of its markers.
    #[must_use]
    pub fn marker_key(&self) -> String {
        format!("{}/{}/{}", self.system, self.database, self.timeline)
    }

    /// The key of its claims. A claim must not take the place of a marker that nobody has read yet.
    #[must_use]
    pub fn claim_key(&self) -> String {
        format!("{}/{CLAIM}", self.marker_key())
    }

    /// The timeline of a key of this server and database, and whether it is a claim's.
    fn parse(&self, key: &[u8]) -> Option<(u32, bool)> {
        let mut parts = std::str::from_utf8(key).ok()?.split('/');
        let is_ours = parts.next()?.parse() == Ok(self.system) && parts.next()?.parse() == Ok(self.database);
        let timeline = parts.next()?.parse().ok()?;
        let is_claim = match parts.next() {
            None => false,
            Some(CLAIM) => true,
            Some(_) => return None,
        };
        (is_ours && parts.next().is_none()).then_some((timeline, is_claim))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.marker_key())
    }
}

/// A random number that names a relay, so that it recognises its own records.
pub type Instance = [u8; 16];

/// A claim: this relay publishes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The relay.
    pub instance: Instance,
    /// Its number among the claims of this relay.
    pub serial: u64,
    /// The timeline of its server.
    pub timeline: u32,
}

/// The value of a claim.
#[must_use]
pub fn claim(instance: &Instance, serial: u64) -> Vec<u8> {
    let mut value = vec![VERSION];
    value.extend_from_slice(instance);
    put(&mut value, serial);
    value
}

/// The value of a marker: the number of the transaction, and the events. It is smallest if ids ascend.
#[must_use]
pub fn marker<'e>(
    instance: &Instance,
    serial: u64,
    events: impl Iterator<Item = &'e (i64, EventPart)>,
) -> Vec<u8> {
    let mut value = claim(instance, serial);
    let mut last = 0;
    for (id, part) in events {
        put(&mut value, zigzag(id.wrapping_sub(last)));
        value.extend_from_slice(&part.0);
        last = *id;
    }
    value
}

/// What the records say of a server and database, as far as they were read.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The events that the last marker of each timeline lists.
    listed: BTreeMap<u32, Vec<(i64, EventPart)>>,
    /// The last claim.
    claim: Option<Claim>,
    /// The last transaction of each relay that is of interest: the one that reads.
    committed: Option<u64>,
    /// Records of this server and database that are of no known form.
    unknown: usize,
}

impl Found {
    /// Takes the next record of the partition into account, for the relay `instance` of `owner`.
    pub fn read(&mut self, owner: &Owner, instance: &Instance, key: &[u8], value: Option<&[u8]>) {
        let Some((timeline, is_claim)) = owner.parse(key) else { return };
        let Some(value) = value else {
            if !is_claim {
                self.listed.remove(&timeline);
            }
            return;
        };
        match parse(value) {
            None => self.unknown += 1,
            Some((by, serial, _)) if is_claim => {
                self.claim = Some(Claim { instance: by, serial, timeline });
            }
            Some((by, serial, events)) => {
                if by == *instance {
                    self.committed = Some(serial);
                }
                self.listed.insert(timeline, events);
            }
        }
    }

    /// The events that are in Kafka and may still be in the table.
    pub fn events(&self) -> impl Iterator<Item = (i64, EventPart)> + '_ {
        self.listed.values().flatten().copied()
    }

    /// The relay that publishes.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        self.claim
    }

    /// The last transaction of the relay that has read, if it has committed any.
    #[must_use]
    pub fn committed(&self) -> Option<u64> {
        self.committed
    }

    /// Whether there are records that this version cannot read.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.unknown > 0
    }
}

type Parsed = (Instance, u64, Vec<(i64, EventPart)>);

fn parse(value: &[u8]) -> Option<Parsed> {
    let (version, rest) = value.split_first()?;
    let (instance, mut rest) = rest.split_first_chunk::<16>().filter(|_| *version == VERSION)?;
    let serial = take(&mut rest)?;
    let (mut events, mut last) = (Vec::new(), 0_i64);
    while !rest.is_empty() {
        last = last.wrapping_add(unzigzag(take(&mut rest)?));
        let (part, more) = rest.split_first_chunk::<8>()?;
        events.push((last, EventPart(*part)));
        rest = more;
    }
    Some((*instance, serial, events))
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: Owner = Owner { system: 7_301_234_567_890_123_456, database: 16_384, timeline: 2 };

    fn found(records: &[(String, Option<Vec<u8>>)]) -> Found {
        let mut found = Found::default();
        for (key, value) in records {
            found.read(&OWNER, &[1; 16], key.as_bytes(), value.as_deref());
        }
        found
    }

    fn listing(serial: u64, ids: &[i64]) -> Vec<u8> {
        let events: Vec<_> = ids.iter().map(|id| (*id, EventPart([9; 8]))).collect();
        marker(&[1; 16], serial, events.iter())
    }

    proptest! {
        #[test]
        fn a_marker_is_read_as_it_was_written(
            events in prop::collection::btree_set((any::<i64>(), any::<[u8; 8]>().prop_map(EventPart)), 0..50),
            serial in any::<u64>(),
        ) {
            let value = marker(&[3; 16], serial, events.iter());
            let (instance, read, listed) = parse(&value).unwrap();
            prop_assert_eq!((instance, read), ([3; 16], serial));
            prop_assert_eq!(listed, events.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_without_harm(key in any::<Vec<u8>>(), value in any::<Vec<u8>>()) {
            let mut found = Found::default();
            found.read(&OWNER, &[1; 16], &key, Some(&value));
            found.read(&OWNER, &[1; 16], OWNER.marker_key().as_bytes(), Some(&value));
        }
    }

    #[test]
    fn the_last_marker_of_each_timeline_counts() {
        let before = Owner { timeline: 1, ..OWNER };
        let other = Owner { database: 5, ..OWNER };
        let found = found(&[
            (before.marker_key(), Some(listing(1, &[1, 2]))),
            (OWNER.marker_key(), Some(listing(2, &[3]))),
            (other.marker_key(), Some(listing(3, &[8]))),
            (OWNER.marker_key(), Some(listing(4, &[4, 5]))),
        ]);
        assert_eq!(found.events().map(|(id, _)| id).collect::<Vec<_>>(), vec![1, 2, 4, 5]);
        assert_eq!(found.committed(), Some(4));
        assert_eq!(found.claim(), None);
    }

    #[test]
    fn a_claim_takes_no_marker_away() {
        let after = Owner { timeline: 3, ..OWNER };
        let found = found(&[
            (OWNER.marker_key(), Some(listing(2, &[3]))),
            (after.claim_key(), Some(claim(&[2; 16], 1))),
            (OWNER.claim_key(), Some(claim(&[1; 16], 5))),
        ]);
        assert_eq!(found.events().count(), 1);
        assert_eq!(found.claim(), Some(Claim { instance: [1; 16], serial: 5, timeline: 2 }));
    }

    #[test]
    fn a_tombstone_and_other_records() {
        let found = found(&[
            (OWNER.marker_key(), Some(listing(2, &[3]))),
            (OWNER.marker_key(), None),
            ("7301234567890123456/16384".into(), Some(listing(2, &[3]))),
            (format!("{OWNER}/claim/x"), Some(listing(2, &[3]))),
            (OWNER.marker_key(), Some(vec![VERSION + 1])),
        ]);
        assert_eq!(found.events().count(), 0);
        assert!(found.has_unknown());
    }
}
