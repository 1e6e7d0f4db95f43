//! The address of a Schema Registry, as `event_outbox.schema_registry_url` gives it.

use std::fmt;

/// What paths of HTTP hold as it is, besides letters and digits.
const UNRESERVED: &[u8] = b"-._~";

/// The addresses of a registry: several servers of the same one, of which any answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryUrl {
    /// Each without a slash at its end.
    servers: Vec<String>,
}

/// Why a text is no address of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    /// It does not begin with `http://` or `https://`.
    Scheme,
    /// It names no host.
    Host,
    /// It names a user, and maybe a password.
    Credentials,
    /// It has a query or a fragment.
    Query,
    /// It has a space, a control character or one that is not ASCII.
    Character,
}

impl RegistryUrl {
    /// Reads the setting: one address, or several with commas between; `None` if it is empty.
    ///
    /// # Errors
    /// The first address that is none.
    pub fn parse(text: &str) -> Result<Option<Self>, UrlError> {
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let servers = addresses.map(server).collect::<Result<Vec<_>, _>>()?;
        Ok((!servers.is_empty()).then_some(Self { servers }))
    }

    /// The servers, in the order in which they are asked.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.servers
    }
}

impl fmt::Display for RegistryUrl {
    /// The form that says which registry it is: ids of another one mean nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.join(","))
    }
}

fn server(address: &str) -> Result<String, UrlError> {
    if !address.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UrlError::Character);
    }
    let (scheme, rest) = address.split_once("://").ok_or(UrlError::Scheme)?;
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if !is_http {
        return Err(UrlError::Scheme);
    }
    if rest.contains(['?', '#']) {
        return Err(UrlError::Query);
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(UrlError::Credentials);
    }
    if host.is_empty() || host.starts_with(':') {
        return Err(UrlError::Host);
    }
    Ok(address.trim_end_matches('/').to_owned())
}

/// A text as one segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || UNRESERVED.contains(&byte) {
            segment.push(byte.into());
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    // Clients and servers take these two for steps through the path.
    match &*segment {
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => segment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn servers(text: &str) -> Vec<String> {
        RegistryUrl::parse(text).unwrap().unwrap().servers
    }

    #[test]
    fn addresses_are_read_as_users_write_them() {
        assert_eq!(servers("http://localhost:8081"), ["http://localhost:8081"]);
        assert_eq!(
            servers(" https://a/apis/ccompat/v7/ , http://b:1"),
            ["https://a/apis/ccompat/v7", "http://b:1"]
        );
        assert_eq!(servers("http://[::1]:8081/"), ["http://[::1]:8081"]);
        assert_eq!(RegistryUrl::parse(" , "), Ok(None));
        assert_eq!(
            RegistryUrl::parse("http://a/,http://b").unwrap().unwrap().to_string(),
            "http://a,http://b"
        );
    }

    #[test]
    fn what_is_no_address_of_a_registry_is_refused() {
        for (text, error) in [
            ("localhost:8081", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("http://", UrlError::Host),
            ("http:///path", UrlError::Host),
            ("http://:8081", UrlError::Host),
            ("http://me:pw@a", UrlError::Credentials),
            ("http://a/?x=1", UrlError::Query),
            ("http://a#b", UrlError::Query),
            ("http://a b", UrlError::Character),
            ("http://ä", UrlError::Character),
            ("http://a\nX: y", UrlError::Character),
            ("http://a,b", UrlError::Scheme),
        ] {
            assert_eq!(RegistryUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_subject_is_one_segment() {
        assert_eq!(segment("orders-value"), "orders-value");
        assert_eq!(segment("a/b é?#%"), "a%2Fb%20%C3%A9%3F%23%25");
        assert_eq!(
            (segment(".").as_str(), segment("..").as_str(), segment("...").as_str()),
            ("%2E", "%2E%2E", "...")
        );
    }

    proptest! {
        #[test]
        fn any_subject_is_one_segment(text in "\\PC{0,60}") {
            prop_assert!(segment(&text).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        }

        #[test]
        fn any_text_can_be_read(text in "\\PC{0,60}") {
            let _ = RegistryUrl::parse(&text);
        }
    }
}
