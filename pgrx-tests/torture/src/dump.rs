//! Keeps the evidence of a failed run.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::evidence::Evidence;
use event_outbox_lab::layout;

/// Writes the journal, the records, the faults and the server's log to files; returns their directory.
pub fn write(evidence: &Evidence, seed: u64, server_log: &str) -> Result<PathBuf> {
    let directory = layout::lab()?.join("torture").join(seed.to_string());
    fs::create_dir_all(&directory)?;
    let mut text = String::new();
    for entry in &evidence.journal.entries {
        let ending = evidence.journal.endings.get(&entry.transaction);
        writeln!(text, "{entry:?} {ending:?} committed {}", evidence.committed.contains(&entry.transaction))?;
    }
    fs::write(directory.join("journal"), &text)?;
    text.clear();
    for record in &evidence.records {
        writeln!(text, "{record:?}")?;
    }
    fs::write(directory.join("records"), &text)?;
    text.clear();
    for (span, fault) in &evidence.disturbed {
        writeln!(text, "{} {} {fault}", span.from, span.to)?;
    }
    fs::write(directory.join("faults"), &text)?;
    text.clear();
    if let Some(inbox) = &evidence.inbox {
        inbox.receipts.iter().try_for_each(|receipt| writeln!(text, "{receipt:?}"))?;
        inbox.burials.iter().try_for_each(|burial| writeln!(text, "{burial:?}"))?;
        inbox.seeks.iter().try_for_each(|seek| writeln!(text, "{seek:?}"))?;
    }
    fs::write(directory.join("handled"), &text)?;
    fs::write(directory.join("postgres.log"), server_log)?;
    Ok(directory)
}
