//! Removes secrets from librdkafka's texts before anybody can read them.

use super::property_rules::{canonical, is_secret};

/// The replacement for a secret.
const STARS: &str = "********";

/// A part of a secret with fewer characters is removed only where it stands alone. Otherwise words would lose letters.
const SHORT: usize = 4;

/// The beginning of a JSON Web Token: `{"` in Base64.
const TOKEN: &str = "eyJ";

/// The length in bytes that every token exceeds.
const TOKEN_BYTES: usize = 20;

/// Holds the secrets among a client's properties.
#[derive(Clone, Default)]
pub struct Redactor {
    /// The longest come first, so that no part of a secret remains.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// The redactor for a client with these properties.
    pub fn new<'p>(properties: impl IntoIterator<Item = (&'p str, &'p str)>) -> Self {
        let secrets = properties.into_iter().filter(|(name, _)| is_secret(canonical(name)));
        Self::of(secrets.flat_map(|(_, value)| parts(value)).map(Into::into).collect())
    }

    /// The redactor for these secrets.
    #[must_use]
    pub fn of(mut secrets: Vec<String>) -> Self {
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        secrets.dedup();
        Self { secrets }
    }

    /// The text without secrets, without tokens, and without the parts of addresses that may be secret.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = without(&text, secret);
            }
        }
        without_tokens(&without_credentials(&text))
    }
}

/// A value, and the parts of it that librdkafka may quote alone: words, lines, and the text after a `=`.
fn parts(value: &str) -> impl Iterator<Item = &str> {
    let words = value.split([' ', '\t', '\n', '\r', ',', ';', '|', '&', '"', '\'']);
    let named = words.clone().filter_map(|word| word.split_once('=').map(|(_, value)| value));
    let parts = words.chain(named).filter(|part| part.chars().count() >= SHORT);
    std::iter::once(value).chain(parts)
}

fn without(text: &str, secret: &str) -> String {
    if secret.chars().count() >= SHORT {
        return text.replace(secret, STARS);
    }
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut kept = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(secret) {
        let end = at + secret.len();
        let alone = !is_word(text[..at].chars().next_back()) && !is_word(text[end..].chars().next());
        if alone {
            kept.push_str(&text[done..at]);
            kept.push_str(STARS);
            done = end;
        }
    }
    kept + &text[done..]
}

/// Removes user, password and query from addresses.
fn without_credentials(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, address) = rest.split_at(at + 3);
        kept.push_str(before);
        let end = address.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'));
        let (address, after) = address.split_at(end.unwrap_or(address.len()));
        let (path, query) =
            address.split_once('?').map_or((address, None), |(path, query)| (path, Some(query)));
        let host_end = path.find('/').unwrap_or(path.len());
        match path[..host_end].rfind('@') {
            Some(user_end) => {
                kept.push_str(STARS);
                kept.push_str(&path[user_end..]);
            }
            None => kept.push_str(path),
        }
        if query.is_some() {
            kept.push('?');
            kept.push_str(STARS);
        }
        rest = after;
    }
    kept + rest
}

fn without_tokens(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN) {
        let (before, token) = rest.split_at(at);
        kept.push_str(before);
        let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let (token, after) = token.split_at(token.find(|c| !is_of_token(c)).unwrap_or(token.len()));
        kept.push_str(if token.len() > TOKEN_BYTES { STARS } else { token });
        rest = after;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redacted(name: &str, value: &str, text: &str) -> String {
        Redactor::new([(name, value)]).redact(text)
    }

    #[test]
    fn each_secret_is_removed_whole_and_in_parts() {
        for name in [
            "sasl.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
        ] {
            assert_eq!(redacted(name, "hunter2", "bad hunter2: hunter2"), "bad ********: ********", "{name}");
        }
        let config = "principal=admin secret=hunter2";
        let text = "Unrecognized sasl.oauthbearer.config beginning at: secret=hunter2";
        assert!(!redacted("sasl.oauthbearer.config", config, text).contains("hunter2"));
        let command = "echo hunter2 | kinit -k %{sasl.kerberos.principal}";
        let text = "failed: echo hunter2 | kinit -k me: exit code 1";
        assert!(!redacted("sasl.kerberos.kinit.cmd", command, text).contains("hunter2"));
        assert_eq!(redacted("sasl.username", "shop", "no user shop"), "no user shop");
    }

    #[test]
    fn a_short_secret_is_removed_only_where_it_stands_alone() {
        assert_eq!(
            redacted("sasl.password", "a", "a bad answer: \"a\""),
            "******** bad answer: \"********\""
        );
    }

    #[test]
    fn addresses_keep_their_host_and_path() {
        let none = Redactor::default();
        assert_eq!(
            none.redact("no token from https://me:pw@idp.example/token?key=x (404)"),
            "no token from https://********@idp.example/token?******** (404)"
        );
        assert_eq!(
            none.redact("ssl://localhost:9092/bootstrap: failed"),
            "ssl://localhost:9092/bootstrap: failed"
        );
    }

    #[test]
    fn tokens_are_recognised_by_their_beginning() {
        let none = Redactor::default();
        assert_eq!(none.redact("token eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0. is old"), "token ******** is old");
        assert_eq!(none.redact("eyJust a word"), "eyJust a word");
    }

    proptest! {
        #[test]
        fn no_secret_is_left(secret in "[a-zA-Z0-9/+=]{4,40}", before in "\\PC{0,40}", after in "\\PC{0,40}") {
            prop_assume!(!STARS.contains(&secret));
            let text = redacted("sasl.password", &secret, &format!("{before}{secret}{after}"));
            prop_assert!(!text.contains(&secret), "{}", text);
        }

        #[test]
        fn any_text_can_be_redacted(text in "\\PC{0,200}", value in "\\PC{0,60}") {
            let _ = redacted("ssl.key.pem", &value, &text);
        }
    }
}
