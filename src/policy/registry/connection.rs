//! How to reach a Schema Registry: its address, and what the properties with the prefix `schema.registry.` say.

use std::fmt;
use std::path::PathBuf;

use super::url::RegistryUrl;
use crate::base64;
use crate::kafka::redactor::Redactor;

/// How a client logs in.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// As anybody.
    None,
    /// By the text `user:password`.
    Basic(String),
    /// By a token.
    Bearer(String),
}

/// The settings from which a client is created.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryConnection {
    /// The address.
    pub url: RegistryUrl,
    /// How to log in.
    pub login: Login,
    /// The certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for RegistryConnection {
    /// Leaves out how to log in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConnection")
            .field("url", &self.url)
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Why the properties cannot be used, as a clause without any value.
pub type ConnectionError = &'static str;

impl RegistryConnection {
    /// The connection to this registry, with these properties, whose names are without the prefix. The last one of a name counts.
    ///
    /// # Errors
    /// The properties contradict each other.
    pub fn new<'p>(
        url: RegistryUrl,
        properties: impl IntoIterator<Item = (&'p str, &'p str)>,
    ) -> Result<Self, ConnectionError> {
        let (mut user, mut token, mut ca, mut certificate, mut key) = (None, None, None, None, None);
        for (name, value) in properties {
            let place = match name {
                "basic.auth.user.info" => &mut user,
                "bearer.auth.token" => &mut token,
                "ssl.ca.location" => &mut ca,
                "ssl.certificate.location" => &mut certificate,
                "ssl.key.location" => &mut key,
                // The others have one value, which is what is done anyway.
                _ => continue,
            };
            *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        let login = match (user, token) {
            (None, None) => Login::None,
            (Some(user), None) if user.contains(':') => Login::Basic(user),
            (Some(_), None) => return Err("schema.registry.basic.auth.user.info is not user:password"),
            (None, Some(token)) => Login::Bearer(token),
            (Some(_), Some(_)) => {
                return Err("schema.registry.basic.auth.user.info and bearer.auth.token exclude each other");
            }
        };
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            _ => return Err("schema.registry.ssl.certificate.location and ssl.key.location go together"),
        };
        Ok(Self { url, login, ca: ca.map(Into::into), identity })
    }

    /// The value of the header `Authorization`, if there is one.
    #[must_use]
    pub fn authorization(&self) -> Option<String> {
        match &self.login {
            Login::None => None,
            Login::Basic(user) => Some(format!("Basic {}", base64_of(user))),
            Login::Bearer(token) => Some(format!("Bearer {token}")),
        }
    }

    /// Removes the secrets of this connection from texts.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor::of(match &self.login {
            Login::None => Vec::new(),
            Login::Basic(user) => {
                let password = user.split_once(':').map(|(_, password)| password.to_owned());
                [user.clone(), base64_of(user)].into_iter().chain(password).collect()
            }
            Login::Bearer(token) => vec![token.clone()],
        })
    }
}

fn base64_of(text: &str) -> String {
    let mut encoded = Vec::new();
    // The text is short: it is a line of a file.
    let _ = base64::encode(text.as_bytes(), &mut encoded);
    String::from_utf8(encoded).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(properties: &[(&str, &str)]) -> Result<RegistryConnection, ConnectionError> {
        let url = RegistryUrl::parse("http://localhost:8081").unwrap().unwrap();
        RegistryConnection::new(url, properties.iter().copied())
    }

    #[test]
    fn a_client_logs_in_by_what_the_properties_say() {
        assert_eq!(connection(&[]).unwrap().authorization(), None);
        let basic = connection(&[("basic.auth.user.info", "me:hunter2")]).unwrap();
        assert_eq!(basic.authorization().as_deref(), Some("Basic bWU6aHVudGVyMg=="));
        let bearer = connection(&[("bearer.auth.token", "x"), ("bearer.auth.token", "y")]).unwrap();
        assert_eq!(bearer.authorization().as_deref(), Some("Bearer y"));
        assert!(!format!("{basic:?} {bearer:?}").contains("hunter2"));
    }

    #[test]
    fn properties_that_contradict_each_other_are_refused_without_their_values() {
        for properties in [
            &[("basic.auth.user.info", "hunter2")][..],
            &[("basic.auth.user.info", "a:hunter2"), ("bearer.auth.token", "hunter2")],
            &[("ssl.key.location", "/hunter2")],
        ] {
            assert!(!connection(properties).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn no_form_of_a_secret_is_left_in_a_text() {
        let redactor = connection(&[("basic.auth.user.info", "me:hunter2")]).unwrap().redactor();
        let text = redactor.redact("no hunter2, no me:hunter2, no bWU6aHVudGVyMg== at http://me:x@host/");
        assert_eq!(text, "no ********, no ********, no ******** at http://********@host/");
    }
}
