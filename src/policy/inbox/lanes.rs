//! Lanes: the units of order and of parallelism of a subscription.
//!
//! Each event belongs to one lane. Sessions take lanes, not events, so the events of a lane are handled one batch after the
//! other, whatever the number of sessions and of Kafka partitions.

use std::fmt;
use std::str::FromStr;

/// The number of lanes of each subscription.
pub const LANES: u16 = 64;

/// The seed of Kafka's murmur2, as in `org.apache.kafka.common.utils.Utils`.
const SEED: u32 = 0x9747_b28c;

/// Which events of a subscription keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordering {
    /// Events with the same topic and key.
    Key,
    /// Events of the same partition.
    Partition,
    /// No events.
    None,
}

impl Ordering {
    /// Its name in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Partition => "partition",
            Self::None => "none",
        }
    }

    /// The lane of an event. `partition` is the number of its partition within the subscription.
    ///
    /// Events without a key are spread by their offsets.
    #[must_use]
    pub fn lane(self, key: Option<&[u8]>, partition: i32, offset: i64) -> u16 {
        let number = match (self, key) {
            (Self::Key, Some(key)) => u64::from(murmur2(key)),
            (Self::Partition, _) => u64::from(partition.unsigned_abs()),
            // The partition keeps those of several partitions from meeting in the same lanes.
            (Self::Key | Self::None, _) => {
                offset.unsigned_abs().wrapping_add(u64::from(partition.unsigned_abs()) * 7)
            }
        };
        (number % u64::from(LANES)) as u16
    }

    /// What events that keep their order have in common, besides the lane; `None` for an event that waits for no other.
    #[must_use]
    pub fn order_key(self, key: Option<&[u8]>, topic: &str, partition: i32) -> Option<Vec<u8>> {
        match (self, key) {
            (Self::Key, Some(key)) => {
                // The topic has no zero byte, so the pair can be told from any other.
                let mut both = Vec::with_capacity(topic.len() + 1 + key.len());
                both.extend_from_slice(topic.as_bytes());
                both.push(0);
                both.extend_from_slice(key);
                Some(both)
            }
            (Self::Partition, _) => Some(format!("{topic}\0{partition}").into_bytes()),
            (Self::Key | Self::None, _) => None,
        }
    }
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Ordering {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Key, Self::Partition, Self::None]
            .into_iter()
            .find(|ordering| ordering.as_str() == text)
            .ok_or(())
    }
}

/// MurmurHash2 as Kafka's Java clients compute it.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = word.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own test, `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_that_of_kafka() {
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key) as i32, hash, "{key:?}");
        }
    }

    #[test]
    fn events_that_keep_their_order_share_a_lane() {
        for ordering in [Ordering::Key, Ordering::Partition] {
            let lane = |offset| ordering.lane(Some(b"k"), 3, offset);
            assert!((0..100).all(|offset| lane(offset) == lane(0)), "{ordering}");
        }
        let lanes: std::collections::HashSet<u16> =
            (0..640).map(|offset| Ordering::None.lane(Some(b"k"), 3, offset)).collect();
        assert_eq!(lanes.len(), usize::from(LANES));
    }

    #[test]
    fn order_keys_differ_where_topics_or_keys_do() {
        let key = |topic, key: &'static [u8]| Ordering::Key.order_key(Some(key), topic, 0);
        assert_ne!(key("a", b"b"), key("ab", b""));
        assert_eq!(key("a", b"b"), key("a", b"b"));
        assert_eq!(Ordering::Key.order_key(None, "a", 0), None);
        assert_eq!(Ordering::None.order_key(Some(b"k"), "a", 0), None);
        assert_ne!(Ordering::Partition.order_key(None, "a", 1), Ordering::Partition.order_key(None, "a", 11));
    }

    #[test]
    fn names_are_read_back() {
        for ordering in [Ordering::Key, Ordering::Partition, Ordering::None] {
            assert_eq!(ordering.as_str().parse(), Ok(ordering));
        }
        assert_eq!("keys".parse::<Ordering>(), Err(()));
    }
}
