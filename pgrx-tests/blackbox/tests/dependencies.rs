//! Checks licences and sources of all dependencies against the lists in `deny.toml`, without the network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::Command;

use event_outbox_lab::{Result, layout};
use serde_json::Value;

/// The strings in the list that follows `start`.
fn list(text: &str, start: &str) -> BTreeSet<String> {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("deny.toml has no {start}"));
    let (items, _) = rest.split_once(']').expect("the list ends");
    items.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression leaves a choice in which all licences are allowed.
fn is_satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (satisfied, rest) = either(&tokens, allowed);
    assert!(rest.is_empty(), "{expression} is not understood");
    satisfied
}

type Rest<'a, 't> = &'a [&'t str];

fn either<'a, 't>(tokens: Rest<'a, 't>, allowed: &dyn Fn(&str) -> bool) -> (bool, Rest<'a, 't>) {
    let (mut satisfied, mut rest) = both(tokens, allowed);
    while let Some(("OR", after)) = rest.split_first().map(|(first, after)| (*first, after)) {
        let (other, after) = both(after, allowed);
        (satisfied, rest) = (satisfied || other, after);
    }
    (satisfied, rest)
}

fn both<'a, 't>(tokens: Rest<'a, 't>, allowed: &dyn Fn(&str) -> bool) -> (bool, Rest<'a, 't>) {
    let (mut satisfied, mut rest) = one(tokens, allowed);
    while let Some(("AND", after)) = rest.split_first().map(|(first, after)| (*first, after)) {
        let (other, after) = one(after, allowed);
        (satisfied, rest) = (satisfied && other, after);
    }
    (satisfied, rest)
}

fn one<'a, 't>(tokens: Rest<'a, 't>, allowed: &dyn Fn(&str) -> bool) -> (bool, Rest<'a, 't>) {
    match tokens {
        ["(", rest @ ..] => {
            let (satisfied, rest) = either(rest, allowed);
            (satisfied, rest.strip_prefix(&[")"]).expect("a closing parenthesis"))
        }
        [licence, "WITH", exception, rest @ ..] => (allowed(&format!("{licence} WITH {exception}")), rest),
        [licence, rest @ ..] => (allowed(licence), rest),
        [] => (false, tokens),
    }
}

#[test]
fn an_expression_is_satisfied_by_one_of_its_choices() {
    let allowed = |licence: &str| matches!(licence, "MIT" | "Zlib" | "Apache-2.0 WITH LLVM-exception");
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "MIT AND Zlib",
        "(GPL-3.0 OR MIT) AND Zlib",
        "Apache-2.0 WITH LLVM-exception",
        "GPL-3.0 AND X OR MIT",
    ] {
        assert!(is_satisfied(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR MIT) AND X", "Apache-2.0", "GPL-3.0 OR X", ""] {
        assert!(!is_satisfied(bad, &allowed), "{bad}");
    }
}

#[test]
fn licences_and_sources_are_among_those_allowed() -> Result<()> {
    let rules = std::fs::read_to_string(layout::repository().join("deny.toml"))?;
    let (licences, registries) = (list(&rules, "\nallow = ["), list(&rules, "\nallow-registry = ["));
    let excepted = list(&rules, "\nexceptions = [{ crate = ");
    assert!(licences.contains("MIT") && registries.len() == 1 && !excepted.contains("MIT"));
    let (_, exception) = rules.split_once("exceptions = [{ crate = \"").expect("exceptions");
    let (excepted_crate, _) = exception.split_once('"').expect("a crate");

    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(layout::repository())
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    for package in packages {
        let (name, version) = (package["name"].as_str().expect("a name"), &package["version"]);
        let licence =
            package["license"].as_str().unwrap_or_else(|| panic!("{name} {version} names no licence"));
        let allowed =
            |one: &str| licences.contains(one) || (name == excepted_crate && excepted.contains(one));
        assert!(is_satisfied(licence, &allowed), "{name} {version} is under {licence}");
        // Packages without a source belong to this repository.
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            assert!(registries.contains(registry), "{name} {version} comes from {source}");
        }
    }
    Ok(())
}
