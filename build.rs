//! Keeps pgrx's schema section in the extension's library, and composes the update scripts.

// A build script fails by a panic.
#![allow(clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

fn main() {
    // cargo-pgrx reads the SQL entities from a section that nothing refers to. It passes this flag by
    // itself, but for every crate; given here it concerns the library alone, and plain cargo and
    // cargo-pgrx then share one set of build artifacts.
    #[cfg(target_os = "linux")]
    println!("cargo:rustc-cdylib-link-arg=-Wl,--no-gc-sections");
    println!("cargo:rerun-if-changed=build.rs");
    compose_update_scripts();
}

/// An update is what changed in tables and types (`sql/updates`), and the functions, views, comments and grants of this
/// version (`sql/outbox`, `sql/inbox`), which are so written once. cargo-pgrx takes update scripts from `sql/` alone, when the build
/// is done. Each released version has a script of its own that leads to this version directly.
fn compose_update_scripts() {
    let version = env!("CARGO_PKG_VERSION");
    let objects = Objects::read();
    let changes = Changes::read_all();
    let mut made = Vec::new();
    for (at, first) in changes.iter().enumerate() {
        let chain = &changes[at..];
        assert!(
            chain.windows(2).all(|two| two[0].to == two[1].from)
                && chain.last().is_some_and(|last| last.to == version),
            "the files of sql/updates do not lead from {} to {version}",
            first.from
        );
        let script = Path::new("sql").join(format!("event_outbox--{}--{version}.sql", first.from));
        write_if_other(&script, &compose(&first.from, version, chain, &objects));
        println!("cargo:rerun-if-changed={}", script.display());
        made.push(script);
    }
    for script in files("sql", "event_outbox--").filter(|script| !made.contains(script)) {
        fs::remove_file(&script).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    }
    println!("cargo:rerun-if-changed=sql/updates");
    println!("cargo:rerun-if-changed=src/lib.rs");
    sources().for_each(|source| println!("cargo:rerun-if-changed={}", source.display()));
}

fn compose(from: &str, to: &str, chain: &[Changes], objects: &Objects) -> String {
    let all = |part: usize| chain.iter().map(|changes| changes.parts[part].as_str()).collect::<String>();
    format!(
        "-- From {from} to {to}. Made by build.rs from sql/updates, sql/outbox and sql/inbox: change those.\n\n\
         {}{}{}{}{}{}",
        all(0),
        objects.functions,
        all(1),
        objects.views,
        all(2),
        objects.descriptions
    )
}

/// What the step from one release to the next changes, in three parts that surround the functions and the views.
struct Changes {
    from: String,
    to: String,
    parts: [String; 3],
}

impl Changes {
    /// The steps, oldest first.
    fn read_all() -> Vec<Self> {
        let mut all: Vec<_> = files("sql/updates", "").map(|file| Self::read(&file)).collect();
        all.sort_by_key(|changes| numbers(&changes.from));
        all
    }

    fn read(file: &Path) -> Self {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let (from, to) = name.split_once("--").unwrap_or_else(|| panic!("{} names no step", file.display()));
        let text = text_of(file);
        let parts: Vec<_> =
            text.split("-- @functions\n").flat_map(|part| part.split("-- @views\n")).collect();
        let parts = parts.try_into().unwrap_or_else(|_| panic!("{} needs both marks", file.display()));
        Self {
            from: from.into(),
            to: to.into(),
            parts: <[&str; 3]>::map(parts, |part| format!("{}\n\n", with_creations(part).trim())),
        }
    }
}

/// Puts the statements that create tables and types in the place of `-- @create FILE`: a file that is new since the
/// release before says once what a new installation and an update create.
fn with_creations(part: &str) -> String {
    let line = |line: &str| match line.strip_prefix("-- @create ") {
        None => format!("{line}\n"),
        Some(file) => {
            let path = PathBuf::from(file);
            assert!(sources().any(|source| source == path), "{file}: an installation does not run it");
            let all = statements(&text_of(&path));
            all.into_iter().filter(|statement| kind(statement) == Some(Kind::Once)).collect()
        }
    };
    part.lines().map(line).collect()
}

/// What an update creates anew, or again.
#[derive(Default)]
struct Objects {
    functions: String,
    views: String,
    /// Comments and grants.
    descriptions: String,
}

impl Objects {
    fn read() -> Self {
        let mut objects = Self::default();
        for source in sources() {
            for statement in statements(&text_of(&source)) {
                objects.add(&statement, &source);
            }
        }
        objects
    }

    fn add(&mut self, statement: &str, source: &Path) {
        let replacing = || statement.replacen("CREATE", "CREATE OR REPLACE", 1);
        match kind(statement) {
            Some(Kind::Function) => self.functions += &replacing(),
            Some(Kind::View) => self.views += &replacing(),
            Some(Kind::Description) => self.descriptions += statement,
            Some(Kind::Once) => {}
            None => panic!("{}: is an update to repeat this?\n{statement}", source.display()),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Function,
    View,
    Description,
    /// What an update does not repeat.
    Once,
}

fn kind(statement: &str) -> Option<Kind> {
    let words: Vec<_> = statement.split_whitespace().take(2).collect();
    match words[..] {
        ["CREATE", "FUNCTION" | "PROCEDURE"] => Some(Kind::Function),
        ["CREATE", "VIEW"] => Some(Kind::View),
        ["COMMENT", "ON"] | ["DO", "$always$"] => Some(Kind::Description),
        ["CREATE", "SCHEMA" | "TABLE" | "INDEX" | "UNIQUE" | "TRIGGER" | "TYPE" | "DOMAIN" | "CAST"]
        | ["ALTER", "TABLE"]
        | ["DO", "$once$"]
        | ["SELECT", _] => Some(Kind::Once),
        _ => None,
    }
}

/// The files of a new installation, in the order in which it runs them.
fn sources() -> impl Iterator<Item = PathBuf> {
    let library = text_of(Path::new("src/lib.rs"));
    let files: Vec<_> = library
        .split("\nextension_sql_file!(")
        .skip(1)
        .map(|rest| rest.split('"').nth(1).and_then(|path| path.strip_prefix("../")).unwrap_or_default())
        .map(PathBuf::from)
        .collect();
    assert!(!files.is_empty(), "src/lib.rs names no SQL file");
    files.into_iter()
}

/// The statements of a file, each with a line break behind it. Comments are left out but inside of them.
fn statements(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (mut statement, mut quote) = (String::new(), None);
    for line in text.lines() {
        if statement.is_empty() && (line.is_empty() || line.starts_with("--")) {
            continue;
        }
        for tag in dollar_tags(line) {
            match quote {
                None => quote = Some(tag),
                Some(open) if open == tag => quote = None,
                Some(_) => {}
            }
        }
        statement += line;
        statement.push('\n');
        let in_body = statement.contains("\nBEGIN ATOMIC\n") && line != "END;";
        if quote.is_none() && line.ends_with(';') && !in_body {
            all.push(std::mem::take(&mut statement));
        }
    }
    assert!(statement.is_empty(), "a statement does not end: {statement}");
    all
}

/// `$$` and `$name$`, but not `$1`.
fn dollar_tags(line: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = line;
    while let Some(begin) = rest.find('$') {
        let name = rest[begin + 1..].bytes().take_while(|byte| byte.is_ascii_lowercase()).count();
        let end = begin + 1 + name;
        if rest[end..].starts_with('$') {
            tags.push(&rest[begin..=end]);
            rest = &rest[end + 1..];
        } else {
            rest = &rest[end..];
        }
    }
    tags
}

fn files(directory: &str, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(move |path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(prefix) && name.ends_with(".sql")
    })
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|number| number.parse().ok()).collect()
}

/// By a rename, since another build may be reading it. And with an old time: cargo would take the script for a change that
/// came after the build, and build again.
fn write_if_other(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|known| known == text) {
        return;
    }
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let written = fs::write(&new, text)
        .and_then(|()| File::options().write(true).open(&new)?.set_modified(SystemTime::UNIX_EPOCH))
        .and_then(|()| fs::rename(&new, path));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
