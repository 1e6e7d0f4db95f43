//! Every property of the librdkafka in use has a rule, including the hidden ones, and every property that librdkafka itself
//! treats as a secret is a secret here.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

use event_outbox_policy::kafka::property_rules::{Rule, canonical, is_secret, rule};

/// The directory into which cargo has unpacked librdkafka's source.
fn librdkafka() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "rdkafka-sys").unwrap();
    PathBuf::from(package["manifest_path"].as_str().unwrap()).with_file_name("librdkafka")
}

/// The names in librdkafka's own table, each with the text before it and after it, up to the next name.
fn table() -> Vec<(String, String)> {
    let source = std::fs::read_to_string(librdkafka().join("src/rdkafka_conf.c")).unwrap();
    let start = source.find("rd_kafka_properties[] = {").unwrap();
    let table = &source[start..][..source[start..].find("{0, /* End */}").unwrap()];
    let entries = table.split("_RK_GLOBAL").flat_map(|part| part.split("_RK_TOPIC")).skip(1);
    entries
        .filter_map(|entry| {
            let name = entry.split('"').nth(1)?;
            let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'));
            is_name.then(|| (name.to_owned(), entry.to_owned()))
        })
        .collect()
}

#[test]
fn every_property_has_a_rule() {
    let names: Vec<_> = table().into_iter().map(|(name, _)| name).collect();
    assert!(names.len() > 150, "{} names", names.len());
    for known in ["test.mock.num.brokers", "sasl.kerberos.kinit.cmd", "acks", "linger.ms", "partitioner"] {
        assert!(names.iter().any(|name| name == known), "{known}");
    }
    let forgotten: Vec<_> = names.iter().filter(|name| rule(canonical(name), "1") == Rule::Unknown).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn every_documented_property_has_a_rule() {
    let documented = std::fs::read_to_string(librdkafka().join("CONFIGURATION.md")).unwrap();
    let names: Vec<_> = documented
        .lines()
        .filter_map(|line| Some(line.split_once(" |")?.0.trim()))
        .filter(|name| !name.is_empty() && !name.starts_with('-') && *name != "Property")
        .collect();
    assert!(names.len() > 150, "{} names", names.len());
    let forgotten: Vec<_> = names.iter().filter(|name| rule(canonical(name), "1") == Rule::Unknown).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// Paths, names and public certificates, which librdkafka also marks as sensitive.
const NO_SECRETS: [&str; 5] = [
    "ssl.key.location",
    "ssl.ca.pem",
    "sasl.username",
    "sasl.oauthbearer.assertion.private.key.file",
    "ssl_key",
];

#[test]
fn every_secret_of_librdkafka_is_a_secret() {
    let sensitive: Vec<_> = table()
        .into_iter()
        .filter(|(_, entry)| entry.split('"').next().is_some_and(|flags| flags.contains("_RK_SENSITIVE")))
        .map(|(name, _)| name)
        .collect();
    assert!(sensitive.len() >= 12, "{sensitive:?}");
    for name in sensitive {
        assert_eq!(is_secret(canonical(&name)), !NO_SECRETS.contains(&&*name), "{name}");
    }
}

/// An alias has the rule of its property.
#[test]
fn aliases_are_those_of_librdkafka() {
    let table = table();
    let is_alias = |entry: &str| entry.contains("_RK_C_ALIAS");
    let mut seen = 0;
    for (name, entry) in table.iter().filter(|(_, entry)| is_alias(entry)) {
        // One alias is also the name of a consumer property.
        if table.iter().any(|(other, entry)| other == name && !is_alias(entry)) {
            continue;
        }
        let target = entry.split(".sdef").nth(1).unwrap().split('"').nth(1).unwrap();
        assert_eq!(canonical(name), canonical(target), "{name}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}
