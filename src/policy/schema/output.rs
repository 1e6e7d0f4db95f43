//! What a codec writes: bytes up to a limit. Their number is a user's choice, so an allocation that fails is an error.

use super::fault::Fault;

/// Bytes that are being written.
#[derive(Debug)]
pub struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
}

impl<'a> Output<'a> {
    /// Appends to these bytes, up to this length.
    #[must_use]
    pub fn new(bytes: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { bytes, limit }
    }

    /// How much there is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes back what was written since there was this much.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// They are too many, or memory is short.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.len() > self.limit.saturating_sub(self.bytes.len()) {
            return Err(Fault::new(format!("its other form has more than {} bytes", self.limit)));
        }
        if self.bytes.capacity() - self.bytes.len() < bytes.len()
            && self.bytes.try_reserve(bytes.len()).is_err()
        {
            return Err(Fault::new("there is too little memory for its other form"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends a string as JSON has it.
    ///
    /// # Errors
    /// As for [`Output::put`].
    pub fn put_string(&mut self, text: &str) -> Result<(), Fault> {
        self.put(b"\"")?;
        let mut rest = text.as_bytes();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
            self.put(&rest[..at])?;
            match rest[at] {
                b'"' => self.put(b"\\\"")?,
                b'\\' => self.put(b"\\\\")?,
                b'\n' => self.put(b"\\n")?,
                byte => self.put(format!("\\u{byte:04x}").as_bytes())?,
            }
            rest = &rest[at + 1..];
        }
        self.put(rest)?;
        self.put(b"\"")
    }

    /// Appends bytes as a string in base64.
    ///
    /// # Errors
    /// As for [`Output::put`].
    pub fn put_base64(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut text = Vec::new();
        if crate::base64::encode(bytes, &mut text).is_err() {
            return Err(Fault::new("there is too little memory for its other form"));
        }
        self.put(b"\"")?;
        self.put(&text)?;
        self.put(b"\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_than_the_limit_is_written() {
        let mut bytes = Vec::new();
        let mut out = Output::new(&mut bytes, 4);
        assert!(out.put(b"abcd").is_ok() && out.put(b"e").is_err());
        out.truncate(1);
        assert!(out.put(b"b").is_ok() && out.len() == 2 && !out.is_empty());
    }

    proptest! {
        #[test]
        fn strings_are_json(text in "\\PC{0,9}|[\\x00-\\x1f\"\\\\ü]{0,9}") {
            let mut bytes = Vec::new();
            Output::new(&mut bytes, 1000).put_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
    }
}
