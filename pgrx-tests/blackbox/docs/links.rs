//! Follows the links between documents and to files of the repository. Every document can be reached.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use event_outbox_lab::{Result, layout};

use super::{Document, document, documents};

/// The targets of the links of a document: `[text](target)`.
fn targets(document: &Document) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    for (number, line) in document.prose() {
        for rest in line.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                targets.push((number, target.to_owned()));
            }
        }
    }
    targets
}

/// The path in the repository that a link from `document` means.
fn resolve(document: &Document, target: &str) -> String {
    let mut path = PathBuf::from(&document.path);
    if !target.is_empty() {
        path.pop();
        for part in Path::new(target).components() {
            match part {
                Component::ParentDir => _ = path.pop(),
                part => path.push(part),
            }
        }
    }
    path.display().to_string()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in document.prose() {
        let title = line.trim_start_matches('#');
        if title.len() < line.len() && title.starts_with(' ') {
            let anchor: String = title
                .trim()
                .to_lowercase()
                .chars()
                .filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter))
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect();
            let again = (1..).map(|number| format!("{anchor}-{number}"));
            let free = std::iter::once(anchor.clone()).chain(again).find(|name| !anchors.contains(name));
            anchors.extend(free);
        }
    }
    anchors
}

fn is_external(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let mut faults = Vec::new();
    let mut followed = 0;
    for from in documents()? {
        for (number, target) in targets(&from).into_iter().filter(|(_, target)| !is_external(target)) {
            followed += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = resolve(&from, file);
            if !layout::repository().join(&path).exists() {
                faults.push(format!("{}:{number} links to {target}, and {path} does not exist", from.path));
            } else if !anchor.is_empty() && !anchors(&document(&path)?).contains(anchor) {
                faults.push(format!(
                    "{}:{number} links to {target}, and {path} has no such heading",
                    from.path
                ));
            }
        }
    }
    assert!(followed >= 50, "only {followed} links were found");
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

/// The map in `docs/README.md` has every document below `docs/`, and the README leads to the map.
#[test]
fn the_map_is_whole() -> Result<()> {
    let map = document("docs/README.md")?;
    let named: BTreeSet<String> = targets(&map).iter().map(|(_, target)| resolve(&map, target)).collect();
    let missing: Vec<String> = documents()?
        .into_iter()
        .map(|document| document.path)
        .filter(|path| path.starts_with("docs/") && *path != map.path && !named.contains(path))
        .collect();
    assert!(missing.is_empty(), "docs/README.md does not name {missing:?}");

    let front = document("README.md")?;
    let named: BTreeSet<String> = targets(&front).iter().map(|(_, target)| resolve(&front, target)).collect();
    for path in ["docs/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"] {
        assert!(named.contains(path), "README.md does not link to {path}");
    }
    Ok(())
}
