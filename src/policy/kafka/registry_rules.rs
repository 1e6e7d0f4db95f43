//! Owns the rule for each property of the Schema Registry's client. They have the names that Confluent's clients give them, behind
//! the prefix `schema.registry.`.

use super::property_rules::{NAMES_A_FILE, Rule};

/// The rule for a property with this value. `name` is without the prefix.
#[must_use]
pub fn rule(name: &str, value: &str) -> Rule {
    match name {
        "basic.auth.user.info" | "bearer.auth.token" => Rule::Pass,
        // What Java clients must be told, and what is done here anyway.
        "basic.auth.credentials.source" if value.eq_ignore_ascii_case("USER_INFO") => Rule::Pass,
        "bearer.auth.credentials.source" if value.eq_ignore_ascii_case("STATIC_TOKEN") => Rule::Pass,
        "basic.auth.credentials.source" => Rule::Refused("the only source is USER_INFO"),
        "bearer.auth.credentials.source" => Rule::Refused("the only source is STATIC_TOKEN"),
        "ssl.ca.location" | "ssl.certificate.location" | "ssl.key.location" => Rule::FileOnly(NAMES_A_FILE),
        "url" => Rule::Refused("use event_outbox.schema_registry_url"),
        "ssl.truststore.location" | "ssl.truststore.password" | "ssl.truststore.type" => {
            Rule::Refused("it is a property of Java clients; use schema.registry.ssl.ca.location")
        }
        "ssl.keystore.location" | "ssl.keystore.password" | "ssl.keystore.type" | "ssl.key.password" => {
            Rule::Refused(
                "use schema.registry.ssl.certificate.location and ssl.key.location, with a key that has no password",
            )
        }
        _ => Rule::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_confluents_clients() {
        assert_eq!(rule("basic.auth.user.info", "a:b"), Rule::Pass);
        assert_eq!(rule("basic.auth.credentials.source", "USER_INFO"), Rule::Pass);
        assert!(matches!(rule("basic.auth.credentials.source", "SASL_INHERIT"), Rule::Refused(_)));
        assert!(matches!(rule("ssl.ca.location", "/ca.pem"), Rule::FileOnly(_)));
        assert!(matches!(rule("ssl.truststore.location", "/x.jks"), Rule::Refused(_)));
        assert_eq!(rule("linger.ms", "1"), Rule::Unknown);
    }
}
