//! Compares the documents with the product: the README, CONTRIBUTING, the changelog, all of `docs/` and those of the
//! examples.
//!
//! [`examples`] runs examples, [`reference`] compares the tables of settings and SQL objects with the server, [`names`]
//! looks up names in the text, [`links`] follows links, [`form`] checks the Markdown itself.

mod examples;
mod form;
mod links;
mod names;
mod reference;

use std::fs;
use std::path::Path;

use event_outbox_lab::{Result, layout};

/// A Markdown file of the repository.
pub struct Document {
    /// Its path in the repository.
    pub path: String,
    pub text: String,
}

/// A fenced block of code.
pub struct Block {
    pub language: String,
    pub code: String,
}

/// All documents, in the order of their paths.
pub fn documents() -> Result<Vec<Document>> {
    let mut paths = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    find("docs", &mut paths)?;
    find("examples", &mut paths)?;
    paths.sort();
    paths.into_iter().map(|path| document(&path)).collect()
}

pub fn document(path: &str) -> Result<Document> {
    let text = fs::read_to_string(layout::repository().join(path))?;
    Ok(Document { path: path.to_owned(), text })
}

fn find(directory: &str, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(layout::repository().join(directory))? {
        let entry = entry?;
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            find(&path, paths)?;
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    Ok(())
}

impl Document {
    /// The fenced blocks, in their order.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(String, Vec<&str>)> = None;
        for line in self.text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (Some(_), Some("")) => {
                    let (language, lines) = open.take().unwrap_or_default();
                    blocks.push(Block { language, code: lines.join("\n") });
                }
                (Some((_, lines)), _) => lines.push(line),
                (None, Some(language)) => open = Some((language.to_owned(), Vec::new())),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block of code does not end", self.path);
        blocks
    }

    /// The code of the blocks of a language.
    pub fn code(&self, language: &str) -> Vec<String> {
        self.blocks().into_iter().filter(|block| block.language == language).map(|block| block.code).collect()
    }

    /// The lines outside of blocks of code, with their numbers.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut in_code = false;
        let outside = |(_, line): &(usize, &str)| {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            !in_code && !is_fence
        };
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(outside).collect()
    }

    /// The spans in backquotes of the prose. A span may continue on the next line.
    pub fn spans(&self) -> Vec<String> {
        let text = self.prose().into_iter().map(|(_, line)| line.trim()).collect::<Vec<_>>().join(" ");
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    /// The first two columns of the tables' rows.
    pub fn table_rows(&self) -> Vec<(&str, &str)> {
        self.text
            .lines()
            .filter_map(|line| {
                let mut cells = line.trim_start().strip_prefix('|')?.split('|').map(str::trim);
                Some((cells.next()?.trim_matches('`'), cells.next()?.trim_matches('`')))
            })
            .collect()
    }
}
