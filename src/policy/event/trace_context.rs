//! Owns the form of the headers `traceparent` and `tracestate`, as of W3C Trace Context, level 1.

/// The header that has the trace and the span of whoever sent a message.
pub const TRACEPARENT: &str = "traceparent";

/// The header that has what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// The longest state in bytes. Everybody must pass on one of this length.
pub const MAX_STATE_BYTES: usize = 512;

/// The most members of a state.
const MAX_MEMBERS: usize = 32;

/// The length of a parent of the first version: `00-<32 digits>-<16 digits>-<2 digits>`.
const PARENT_BYTES: usize = 55;

/// The longest parent in bytes. Later versions may have more parts than the first.
const MAX_PARENT_BYTES: usize = 255;

/// Whether the text is a parent.
#[must_use]
pub fn is_parent(text: &str) -> bool {
    let Some((first, rest)) = text.split_at_checked(PARENT_BYTES) else { return false };
    let mut parts = first.split('-');
    let mut hex = |length: usize| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_digit))
    };
    let (version, trace, span, flags) = (hex(2), hex(32), hex(16), hex(2));
    let is_none = |id: &str| id.bytes().all(|digit| digit == b'0');
    let ends_well = match version {
        None | Some("ff") => false,
        Some("00") => rest.is_empty(),
        Some(_) => {
            rest.is_empty() || rest.starts_with('-') && rest.bytes().all(|byte| byte.is_ascii_graphic())
        }
    };
    ends_well
        && text.len() <= MAX_PARENT_BYTES
        && trace.is_some_and(|id| !is_none(id))
        && span.is_some_and(|id| !is_none(id))
        && flags.is_some()
        && parts.next().is_none()
}

/// Whether the text is a state: up to 32 members `key=value`, separated by commas, with different keys.
#[must_use]
pub fn is_state(text: &str) -> bool {
    let members =
        || text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let mut keys: Vec<&str> = Vec::new();
    text.len() <= MAX_STATE_BYTES
        && members().count() <= MAX_MEMBERS
        && members().all(|member| {
            let Some((key, value)) = member.split_once('=') else { return false };
            let is_new = !keys.contains(&key);
            keys.push(key);
            is_new && is_key(key) && is_value(value)
        })
}

/// A name, or a name of a tenant and one of a system.
fn is_key(key: &str) -> bool {
    let is_sound = |name: &str, most: usize, may_begin_with_digit: bool| {
        let begins_well =
            |first: u8| first.is_ascii_lowercase() || may_begin_with_digit && first.is_ascii_digit();
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
        name.len() <= most && name.bytes().next().is_some_and(begins_well) && name.bytes().all(fits)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_sound(tenant, 241, true) && is_sound(system, 14, false),
        None => is_sound(key, 256, false),
    }
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b",=".contains(&byte))
        && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn parents() {
        assert!(is_parent(GOOD));
        assert!(
            is_parent(&GOOD.replacen("00", "cc", 1))
                && is_parent(&format!("{}-more.x", GOOD.replacen("00", "cc", 1)))
        );
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD} "),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0G", 1),
            &GOOD.to_uppercase(),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &GOOD.replace('-', "_"),
            &format!("{}é", &GOOD[..54]),
            &format!("{}.x", GOOD.replacen("00", "cc", 1)),
            &format!("{}-{}", GOOD.replacen("00", "cc", 1), "x".repeat(200)),
        ] {
            assert!(!is_parent(wrong), "{wrong}");
        }
    }

    #[test]
    fn states() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for good in [
            "",
            "congo=t61rcWkgMzE",
            "rojo=00f067aa0ba902b7 , congo=a b",
            "a=1,,b=2",
            "0t@sys=\"x\"",
            &many(32),
        ] {
            assert!(is_state(good), "{good}");
        }
        let long = format!("a={}", "x".repeat(257));
        let too_long = ["a", "b", "c"].map(|key| format!("{key}={}", "x".repeat(200))).join(",");
        for wrong in [
            "a",
            "a=",
            "=1",
            "A=1",
            "1=1",
            "a=1,a=2",
            "a=é",
            "a=1=2",
            "a@=1",
            "a@1s=1",
            "a=\u{1}",
            &long,
            &too_long,
            &many(33),
        ] {
            assert!(!is_state(wrong), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_be_asked(text in "\\PC{0,80}", digits in "[0-9a-f-]{50,60}") {
            let _ = is_state(&text);
            prop_assert!(!is_parent(&text) || text.is_ascii());
            let _ = is_parent(&digits);
        }
    }
}
