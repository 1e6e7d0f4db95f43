//! Base64 as of RFC 4648, section 4, with padding: how JSON holds bytes. Values are as large as users choose, so running out of
//! memory is an error and does not end the process.

use std::collections::TryReserveError;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const PADDING: u8 = b'=';

/// The length of the text for this many bytes.
#[must_use]
pub const fn text_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3).saturating_mul(4)
}

/// Appends the text for these bytes.
///
/// # Errors
/// Memory is short. Nothing was appended.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TryReserveError> {
    out.try_reserve(text_bytes(bytes.len()))?;
    for group in bytes.chunks(3) {
        let bits =
            group.iter().chain([0, 0].iter()).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 0x3f) as usize];
            out.push(if place > group.len() { PADDING } else { digit });
        }
    }
    Ok(())
}

/// The bytes of a text; `None` if it is not the base64 of any, or memory is short. Padding may be missing.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != PADDING).map_or(0, |last| last + 1);
    let (digits, padding) = text.split_at(end);
    let is_padded = padding.is_empty() || text.len().is_multiple_of(4);
    if !is_padded || padding.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::new();
    out.try_reserve_exact(digits.len() / 4 * 3 + 2).ok()?;
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for place in 0..4 {
            bits = bits << 6 | group.get(place).map_or(Some(0), |digit| value(*digit))?;
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes[..group.len() - 1]);
    }
    Some(out)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode(bytes, &mut out).unwrap();
        assert_eq!(out.len(), text_bytes(bytes.len()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_vectors_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encoded(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).as_deref(), Some(bytes.as_bytes()));
        }
        for wrong in ["Z", "Zg=", "Zg===", "====", "=", "Zm9v====", "Zm 9", "Zm-_", "Zg==Zg==", "é"] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(encoded(&bytes).as_bytes()), Some(bytes));
        }

        #[test]
        fn anything_can_be_decoded(text in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(bytes) = decode(&text) {
                prop_assert!(bytes.len() <= text.len());
            }
        }
    }
}
