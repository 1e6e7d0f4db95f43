//! The wire format of Schema Registries: a zero byte, the id of the schema in four bytes, big-endian, and the payload. A
//! Protobuf payload is preceded by the place of its message in the schema.

/// The length of what precedes the payload.
pub const PREFIX_BYTES: usize = 5;

/// How deep a message can lie in others.
const MAX_INDEXES: usize = 64;

/// Begins a record's value.
#[must_use]
pub fn prefix(id: i32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

/// The id of the schema, and what follows it. `None` if the value is not in the wire format.
#[must_use]
pub fn split(value: &[u8]) -> Option<(i32, &[u8])> {
    match value {
        [0, a, b, c, d, rest @ ..] => Some((i32::from_be_bytes([*a, *b, *c, *d]), rest)),
        _ => None,
    }
}

/// Appends the place of a message: its number among its siblings, for each level of nesting from outside. That of the first
/// message is one zero.
pub fn put_indexes(indexes: &[i32], out: &mut Vec<u8>) {
    if indexes == [0] {
        out.push(0);
        return;
    }
    put_long(i64::try_from(indexes.len()).unwrap_or(i64::MAX), out);
    indexes.iter().for_each(|index| put_long((*index).into(), out));
}

/// Takes the place of a message. `None` if there is none.
#[must_use]
pub fn take_indexes(bytes: &mut &[u8]) -> Option<Vec<i32>> {
    let count = usize::try_from(take_long(bytes)?).ok()?;
    if count == 0 {
        return Some(vec![0]);
    }
    if count > MAX_INDEXES {
        return None;
    }
    (0..count).map(|_| i32::try_from(take_long(bytes)?).ok()).collect()
}

/// Appends a number in zigzag encoding, which Avro has as well.
pub fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes such a number. `None` if the bytes end in it, or it is longer than it can be.
#[must_use]
pub fn take_long(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift == 63 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn indexes(of: &[i32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_indexes(of, &mut bytes);
        bytes
    }

    /// As Confluent's serializers write them (`MessageIndexes.toByteArray`).
    #[test]
    fn the_first_message_is_one_zero() {
        assert_eq!(indexes(&[0]), [0]);
        assert_eq!(indexes(&[1]), [2, 2]);
        assert_eq!(indexes(&[1, 0]), [4, 2, 0]);
        assert_eq!(prefix(258), [0, 0, 0, 1, 2]);
        assert_eq!(split(b"\0\0\0\x01\x02rest"), Some((258, &b"rest"[..])));
        assert_eq!(split(b"\0\0\0\x01"), None);
        assert_eq!(split(b"{\"a\":1}"), None);
        // Older serializers spell the first message out.
        assert_eq!(take_indexes(&mut &[2_u8, 0][..]), Some(vec![0]));
        assert_eq!(take_indexes(&mut &[0x7e_u8, 0][..]), None);
        assert_eq!(take_indexes(&mut &[0xff; 20][..]), None);
    }

    proptest! {
        #[test]
        fn numbers_come_back(value in any::<i64>(), places in prop::collection::vec(0..i32::MAX, 1..9)) {
            let mut bytes = Vec::new();
            put_long(value, &mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_long(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(take_indexes(&mut &indexes(&places)[..]), Some(places));
        }

        #[test]
        fn any_bytes_can_be_tried(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = (take_indexes(&mut &bytes[..]), take_long(&mut &bytes[..]));
        }
    }
}
