//! The form of the Markdown: one title, lines that fit, blocks of a known kind.

use event_outbox_lab::Result;

use super::documents;

/// Columns of a line, apart from tables, code and lines of a single word.
const WIDTH: usize = 100;

/// The languages of blocks, and how each is checked.
const LANGUAGES: [&str; 14] = [
    "sql",        // run
    "record",     // compared with what arrives
    "conf",       // set
    "properties", // given to a producer
    "json",       // parsed
    "sh",         // its targets, packages and files are looked up
    "text",       // drawings and output
    "yaml",       // Kubernetes manifests: not run, for lack of a cluster
    "dockerfile", // not run
    "rust",       // quotes the code: not run; but in receivers.md, run by `make drivers-test`
    "python",     // these four: run by `make drivers-test`
    "javascript",
    "go",
    "java",
];

#[test]
fn lines_fit_and_titles_are_one() -> Result<()> {
    let mut faults = Vec::new();
    for document in documents()? {
        let path = &document.path;
        let titles = document.prose().iter().filter(|(_, line)| line.starts_with("# ")).count();
        if titles != 1 || !document.text.starts_with("# ") {
            faults.push(format!("{path} has {titles} titles, or does not begin with its own"));
        }
        for (number, line) in document.prose() {
            let is_table = line.trim_start().starts_with('|');
            let is_one_word = !line.trim_start_matches(['-', '*', ' ']).contains(' ');
            if line.chars().count() > WIDTH && !is_table && !is_one_word {
                faults.push(format!("{path}:{number} has more than {WIDTH} columns"));
            }
            if line.ends_with(' ') {
                faults.push(format!("{path}:{number} ends with a blank"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

#[test]
fn blocks_are_of_a_language_that_is_checked() -> Result<()> {
    let mut faults = Vec::new();
    for document in documents()? {
        for block in document.blocks() {
            let language = block.language.as_str();
            let is_program = ["python", "javascript", "go", "java"].contains(&language);
            if !LANGUAGES.contains(&language) {
                faults.push(format!("{}: a block in \"{language}\", which is not checked", document.path));
            }
            if is_program
                && !["docs/guides/drivers.md", "docs/guides/receivers.md"].contains(&document.path.as_str())
            {
                faults.push(format!("{}: `make drivers-test` does not run its programs", document.path));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}
