//! Makes the events. They are the same for every contender: each number stands for one event, wherever it is made.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use anyhow::{Result, ensure};
use postgres::Client;

/// The number of distinct keys.
const KEYS: i64 = 10_000;

/// The default size of a payload in bytes.
pub const PAYLOAD_BYTES: usize = 200;

/// The size of [`payload`] in bytes without the number and the padding.
const FRAME: usize = br#"{"n":,"pad":""}"#.len();

/// The widest number that still leaves room in the smallest payload.
const SMALLEST_PAYLOAD: usize = FRAME + 20;

/// The SQL functions that make the same events in a database; see [`create_functions`].
const FUNCTIONS: &str = "
CREATE FUNCTION made_id(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT lpad(to_hex(n), 8, '0') || '-0000-4000-8000-000000000000' $$;
CREATE FUNCTION made_trace(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT lpad(to_hex(n), 32, '0') $$;
CREATE FUNCTION made_key(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT 'k' || n % {keys} $$;
CREATE FUNCTION made_payload(n bigint, bytes integer DEFAULT 200, filling text DEFAULT 'x') RETURNS text
    LANGUAGE sql IMMUTABLE AS $$ SELECT rpad('{\"n\":' || n || ',\"pad\":\"', bytes - 2, filling) || '\"}' $$;
CREATE FUNCTION made_headers(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT '{\"id\":\"' || made_id(n) || '\",\"trace\":\"' || made_trace(n) || '\"}' $$;
";

/// Defines `made_key(n)`, `made_payload(n, bytes)` and so on in a database.
pub fn create_functions(client: &mut Client) -> Result<()> {
    client.batch_execute(&FUNCTIONS.replace("{keys}", &KEYS.to_string()))?;
    let row =
        client.query_one("SELECT made_key(12345), made_payload(12345, 200), made_headers(12345)", &[])?;
    let made: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    ensure!(
        made == [key(12345), payload(12345, 200), headers(12345)],
        "PostgreSQL makes other events: {made:?}"
    );
    Ok(())
}

/// The event's identity, a UUID; sent as the header `id`.
pub fn id(n: i64) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

/// Sent as the header `trace`.
pub fn trace(n: i64) -> String {
    format!("{n:032x}")
}

/// The event's headers as JSON, as a table stores them.
pub fn headers(n: i64) -> String {
    format!(r#"{{"id":"{}","trace":"{}"}}"#, id(n), trace(n))
}

/// The record's key.
pub fn key(n: i64) -> String {
    format!("k{}", n % KEYS)
}

/// The record's value: JSON of exactly `bytes` bytes.
pub fn payload(n: i64, bytes: usize) -> String {
    let bytes = bytes.max(SMALLEST_PAYLOAD);
    let number = n.to_string();
    let filling = filling(bytes);
    let padding: String = filling.chars().cycle().take(bytes - FRAME - number.len()).collect();
    format!(r#"{{"n":{number},"pad":"{padding}"}}"#)
}

/// The text that pads a payload, repeated as necessary. From the size at which PostgreSQL starts to compress values, the
/// text cannot be compressed.
pub fn filling(bytes: usize) -> &'static str {
    const COMPRESSED_FROM: usize = 2000;
    const LONGEST: usize = 102_400;
    static NOISE: LazyLock<String> = LazyLock::new(|| {
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut letter = || {
            // xorshift gives the same noise in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'0' + ((state >> 32) % 64) as u8)
        };
        // A backslash would begin an escape in JSON.
        (0..LONGEST).map(|_| letter()).map(|c| if c == '\\' { '~' } else { c }).collect()
    });
    if bytes < COMPRESSED_FROM { "x" } else { &NOISE }
}

/// The number of the event with this payload.
pub fn number(payload: &[u8]) -> Option<i64> {
    let digits = payload.strip_prefix(br#"{"n":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// A series of events for one topic.
#[derive(Clone, Debug)]
pub struct Load {
    /// The topic of the events.
    pub topic: String,
    /// Their numbers.
    pub numbers: RangeInclusive<i64>,
    /// The size of each payload in bytes.
    pub bytes: usize,
}

impl Load {
    /// The events 1 to `count` with the default size.
    pub fn new(topic: &str, count: u64) -> Self {
        Self { topic: topic.into(), numbers: 1..=count.cast_signed(), bytes: PAYLOAD_BYTES }
    }

    /// The number of events.
    pub fn count(&self) -> u64 {
        u64::try_from(self.numbers.end() - self.numbers.start() + 1).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_asked_for_and_tell_their_number() {
        for (n, bytes) in [(1, 200), (999_999, 200), (7, 100), (10_000_000, 102_400)] {
            let payload = payload(n, bytes);
            assert_eq!((payload.len(), number(payload.as_bytes())), (bytes, Some(n)));
        }
        assert_eq!(number(b"{}"), None);
    }
}
