//! Versions that several files name are the same in all of them.

use std::fs;

use event_outbox_lab::{Result, layout};

/// The text between `before` and `after` in a file of the repository.
fn said(file: &str, before: &str, after: &str) -> Result<String> {
    let text = fs::read_to_string(layout::repository().join(file))?;
    let rest = text.split_once(before).map(|(_, rest)| rest);
    let value = rest.and_then(|rest| rest.split_once(after)).map(|(value, _)| value);
    Ok(value.unwrap_or_else(|| panic!("{file} says no {before}")).to_owned())
}

#[test]
fn the_version_is_the_same_in_all_packages() -> Result<()> {
    let version = said("Cargo.toml", "\nversion = \"", "\"")?;
    assert_eq!(said("META.json", "\n  \"version\": \"", "\"")?, version);
    assert_eq!(said("META.json", "\n      \"version\": \"", "\"")?, version);
    assert_eq!(said("packaging/debian/changelog", "event-outbox (", "-")?, version);
    Ok(())
}

#[test]
fn cargo_pgrx_has_the_version_of_pgrx() -> Result<()> {
    let version = said("Cargo.toml", "\npgrx = \"=", "\"")?;
    assert_eq!(said("scripts/bootstrap", "\ncargo_pgrx_version=", "\n")?, version);
    assert_eq!(said("docker/Dockerfile", "\nARG CARGO_PGRX_VERSION=", "\n")?, version);
    Ok(())
}
