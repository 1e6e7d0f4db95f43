//! Numbers between their text and binary forms, without silent loss: a number that a form cannot hold is refused.

use std::fmt::Write;

use super::limits::MAX_DIGITS;

/// A decimal number: sign, digits without zeros at either end, and the power of ten of the last digit. Zero has no digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// The value of a number in JSON's form. `None` if it has more digits than are handled.
    fn of(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?.into()),
            None => (text, 0_i64),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> =
            whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
        let mut exponent = exponent - i64::try_from(fraction.len()).ok()?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        if digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let is_zero = digits.is_empty();
        Some(Self {
            is_negative: is_negative && !is_zero,
            exponent: if is_zero { 0 } else { exponent },
            digits,
        })
    }

    /// The digits of the number times ten to the power of `scale`. `None` if it has a fraction then, or too many digits.
    fn scaled(&self, scale: usize) -> Option<Vec<u8>> {
        let zeros = usize::try_from(self.exponent.checked_add(i64::try_from(scale).ok()?)?).ok();
        let zeros = if self.digits.is_empty() { 0 } else { zeros? };
        if self.digits.len() + zeros > MAX_DIGITS {
            return None;
        }
        let mut digits = self.digits.clone();
        digits.resize(self.digits.len() + zeros, b'0');
        Some(digits)
    }
}

/// The number as an integer; `None` if it has a fraction, or more digits than an `i128`.
#[must_use]
pub fn integer(text: &str) -> Option<i128> {
    // Most are written so.
    if text.len() < 30 && !text.contains(['.', 'e', 'E']) {
        return text.parse().ok();
    }
    let number = Decimal::of(text)?;
    let digits = number.scaled(0)?;
    let value = digits
        .iter()
        .try_fold(0_i128, |value, digit| value.checked_mul(10)?.checked_add(i128::from(digit - b'0')))?;
    Some(if number.is_negative { -value } else { value })
}

/// The number as a double; `None` if reading that back gave another number.
#[must_use]
pub fn double(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && Decimal::of(&format!("{value:e}")) == Decimal::of(text)).then_some(value)
}

/// The same as a float of 32 bits.
#[must_use]
pub fn float(text: &str) -> Option<f32> {
    let value: f32 = text.parse().ok()?;
    (value.is_finite() && Decimal::of(&format!("{value:e}")) == Decimal::of(text)).then_some(value)
}

/// The number times ten to the power of `scale`, as a big-endian integer in two's complement, as short as possible. `None` if
/// it has more than `precision` digits, or more behind the point than `scale`.
#[must_use]
pub fn unscaled(text: &str, precision: usize, scale: usize) -> Option<Vec<u8>> {
    let number = Decimal::of(text)?;
    let digits = number.scaled(scale)?;
    if digits.len() > precision {
        return None;
    }
    // Little-endian, to the base of 256.
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits {
        let mut carry = u32::from(digit - b'0');
        for byte in &mut bytes {
            carry += u32::from(*byte) * 10;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    bytes.push(0);
    if number.is_negative {
        negate(&mut bytes);
    }
    let redundant = |bytes: &[u8]| match bytes {
        [.., next, 0] => next & 0x80 == 0,
        [.., next, 0xff] => next & 0x80 != 0,
        _ => false,
    };
    while redundant(&bytes) {
        bytes.pop();
    }
    bytes.reverse();
    Some(bytes)
}

/// Negates a little-endian number in two's complement.
fn negate(bytes: &mut [u8]) {
    let mut carry = 1_u16;
    for byte in bytes {
        carry += u16::from(!*byte);
        *byte = carry as u8;
        carry >>= 8;
    }
}

/// Writes a big-endian integer in two's complement, divided by ten to the power of `scale`. `None` if it is too long.
#[must_use]
pub fn decimal(bytes: &[u8], scale: usize) -> Option<String> {
    if bytes.len() > MAX_DIGITS / 2 || scale > MAX_DIGITS {
        return None;
    }
    let mut magnitude: Vec<u8> = bytes.iter().rev().copied().collect();
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    if is_negative {
        negate(&mut magnitude);
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) || digits.len() <= scale {
        let mut rest = 0_u32;
        for byte in magnitude.iter_mut().rev() {
            rest = (rest << 8) | u32::from(*byte);
            *byte = (rest / 10) as u8;
            rest %= 10;
        }
        digits.push(b'0' + rest as u8);
    }
    let mut text = String::from(if is_negative { "-" } else { "" });
    for (at, digit) in digits.iter().enumerate().rev() {
        text.push(char::from(*digit));
        if at == scale && scale > 0 {
            text.push('.');
        }
    }
    Some(text)
}

/// Appends a double as JSON has it: the shortest text that gives it back, or a string.
pub fn put_double(value: f64, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match special(value) {
        Some(name) => write!(out, "\"{name}\""),
        None => write!(out, "{value:?}"),
    };
}

/// The same for a float of 32 bits.
pub fn put_float(value: f32, out: &mut String) {
    let _ = match special(value.into()) {
        Some(name) => write!(out, "\"{name}\""),
        None => write!(out, "{value:?}"),
    };
}

/// What JSON has no number for.
fn special(value: f64) -> Option<&'static str> {
    match value {
        value if value.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

/// The value that such a string stands for.
#[must_use]
pub fn special_value(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_float_would_change_is_refused() {
        assert_eq!(double("9007199254740992"), Some(9_007_199_254_740_992.0));
        assert_eq!(double("9007199254740993"), None);
        assert_eq!(double("0.1"), Some(0.1));
        assert_eq!(double("0.10"), Some(0.1));
        assert_eq!(double("0.1000000000000000055"), None);
        assert_eq!(double("1e400"), None);
        assert_eq!(double("-0"), Some(0.0));
        assert_eq!(float("0.1"), Some(0.1));
        assert_eq!(float("16777217"), None);
        assert_eq!(float("0.123456789"), None);
    }

    #[test]
    fn integers_are_exact() {
        assert_eq!(integer("9007199254740993"), Some(9_007_199_254_740_993));
        assert_eq!(integer("1.0"), Some(1));
        assert_eq!(integer("-12e2"), Some(-1200));
        assert_eq!(integer("120e-1"), Some(12));
        assert_eq!(integer("1.5"), None);
        assert_eq!(integer("1e999999999"), None);
        assert_eq!(integer("1e99999999999"), None);
        assert_eq!(integer(&"9".repeat(50)), None);
        assert_eq!(integer("0e5"), Some(0));
    }

    #[test]
    fn decimals_have_their_scale() {
        assert_eq!(unscaled("12.34", 4, 2), Some(vec![0x04, 0xd2]));
        assert_eq!(unscaled("-1", 4, 2), Some(vec![0x9c]));
        assert_eq!(unscaled("0", 4, 2), Some(vec![0]));
        assert_eq!(unscaled("1.28", 4, 2), Some(vec![0, 0x80]));
        assert_eq!(unscaled("123.45", 4, 2), None);
        assert_eq!(unscaled("1.234", 9, 2), None);
        assert_eq!(decimal(&[0x04, 0xd2], 2).as_deref(), Some("12.34"));
        assert_eq!(decimal(&[0x9c], 2).as_deref(), Some("-1.00"));
        assert_eq!(decimal(&[], 0).as_deref(), Some("0"));
        assert_eq!(decimal(&vec![1; 600], 0), None);
    }

    proptest! {
        #[test]
        fn decimals_come_back(value in any::<i128>(), scale in 0..40_usize) {
            let text = value.to_string();
            let bytes = unscaled(&format!("{text}e-{scale}"), 40, scale).unwrap();
            prop_assert_eq!(decimal(&bytes, 0).unwrap(), text);
            let again = unscaled(&decimal(&bytes, scale).unwrap(), 40, scale);
            prop_assert_eq!(again, Some(bytes));
        }

        #[test]
        fn each_double_comes_back(value in any::<f64>(), small in any::<f32>()) {
            let (mut text, mut short) = (String::new(), String::new());
            put_double(value, &mut text);
            put_float(small, &mut short);
            if value.is_finite() {
                prop_assert_eq!(double(&text), Some(value));
            }
            if small.is_finite() {
                prop_assert_eq!(float(&short), Some(small));
            }
        }

        #[test]
        fn any_number_can_be_tried(text in "-?[0-9]{1,9}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,12})?") {
            let _ = (integer(&text), double(&text), float(&text), unscaled(&text, 20, 5));
        }
    }
}
