//! Owns the definition of a capture, which lies in its triggers as JSON text, so that dumps, restores and copies carry it.

use serde::{Deserialize, Serialize};

use crate::event::topic;

/// The greatest length of a definition's text in bytes.
pub const MAX_BYTES: usize = 65_536;

/// How much of a row its events carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The key.
    Notification,
    /// The key, and what changed.
    Delta,
    /// The key, and the row before and after.
    Fat,
}

/// When events are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// For each row.
    Row,
    /// For all rows of a statement at its end.
    Statement,
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each variant has the name of its command")]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

macro_rules! words {
    ($type:ident: $($variant:ident $word:literal),+) => {
        impl $type {
            /// The variants.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its word in SQL.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads the word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.word() == word)
            }
        }
    };
}

words!(Style: Notification "notification", Delta "delta", Fat "fat");
words!(Mode: Row "row", Statement "statement");
words!(Operation: Insert "insert", Update "update", Delete "delete", Truncate "truncate");

/// What becomes of a table's changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// How much the events carry.
    pub style: Style,
    /// When they are made.
    pub mode: Mode,
    /// Where they go.
    pub topic: String,
    /// Their type, in which `{action}` stands for what happened.
    pub event_type: String,
    /// The columns that identify a row.
    pub key: Vec<String>,
    /// The columns that events carry; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The columns that they never carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// The kinds of changes that become events.
    pub operations: Vec<Operation>,
}

impl Definition {
    /// Reads a definition. `None` if the text is none, or one that no capture can have.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let read: Self = serde_json::from_str(text).ok()?;
        let is_sound = topic::is_valid(&read.topic)
            && !read.key.is_empty()
            && !read.event_type.is_empty()
            && !read.operations.is_empty();
        is_sound.then_some(read)
    }

    /// The text that [`Definition::parse`] reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Writing plain strings and lists to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether events carry this column, which is not one of the key.
    #[must_use]
    pub fn has_column(&self, name: &str) -> bool {
        let among = |names: &[String]| names.iter().any(|known| known == name);
        self.columns.as_ref().is_none_or(|columns| among(columns)) && !among(&self.except)
    }

    /// The definition after a column has got another name; `None` if it does not name the column.
    #[must_use]
    pub fn renamed(&self, old: &str, new: &str) -> Option<Self> {
        let mut changed = self.clone();
        let lists = changed.columns.iter_mut().chain([&mut changed.key, &mut changed.except]);
        for name in lists.flatten().filter(|name| *name == old) {
            new.clone_into(name);
        }
        (changed != *self).then_some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn definition(key: &[&str], columns: Option<&[&str]>, except: &[&str]) -> Definition {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Definition {
            style: Style::Delta,
            mode: Mode::Row,
            topic: "io.shop.orders.resource".into(),
            event_type: "orders.{action}".into(),
            key: owned(key),
            columns: columns.map(owned),
            except: owned(except),
            operations: Operation::ALL.to_vec(),
        }
    }

    #[test]
    fn its_text_is_stable() {
        let text = r#"{"style":"delta","mode":"row","topic":"io.shop.orders.resource","event_type":"orders.{action}","key":["id"],"except":["ssn"],"operations":["insert","update","delete","truncate"]}"#;
        let known = definition(&["id"], None, &["ssn"]);
        assert_eq!(known.to_text(), text);
        assert_eq!(Definition::parse(text), Some(known));
    }

    #[test]
    fn what_no_capture_has_is_refused() {
        let good = definition(&["id"], None, &[]);
        let empty = |change: fn(&mut Definition)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad.to_text()
        };
        for bad in [
            "",
            "{}",
            "[]",
            // Of a later version: to ignore what it asks for could tell a secret.
            &good.to_text().replace("\"key\"", "\"hide\":[],\"key\""),
            &empty(|bad| bad.topic.clear()),
            &empty(|bad| bad.key.clear()),
            &empty(|bad| bad.operations.clear()),
            &empty(|bad| bad.event_type.clear()),
            &empty(|bad| bad.key = vec!["x".repeat(MAX_BYTES)]),
        ] {
            assert_eq!(Definition::parse(bad), None, "{bad:.200}");
        }
    }

    #[test]
    fn a_column_is_carried_unless_it_is_excepted() {
        let has = |of: Definition| ["a", "b"].map(|name| of.has_column(name));
        assert_eq!(has(definition(&["id"], None, &[])), [true, true]);
        assert_eq!(has(definition(&["id"], Some(&["a"]), &[])), [true, false]);
        assert_eq!(has(definition(&["id"], None, &["a"])), [false, true]);
        assert_eq!(has(definition(&["id"], Some(&["a", "b"]), &["a"])), [false, true]);
    }

    #[test]
    fn a_renamed_column_is_followed_everywhere() {
        let before = definition(&["id", "a"], Some(&["a", "b"]), &["ssn"]);
        assert_eq!(before.renamed("a", "z"), Some(definition(&["id", "z"], Some(&["z", "b"]), &["ssn"])));
        assert_eq!(before.renamed("ssn", "s"), Some(definition(&["id", "a"], Some(&["a", "b"]), &["s"])));
        assert_eq!(before.renamed("c", "z"), None);
    }

    #[test]
    fn words_are_those_of_the_text() {
        for style in Style::ALL {
            assert_eq!(serde_json::to_string(style).unwrap(), format!("{:?}", style.word()));
            assert_eq!(Style::parse(style.word()), Some(*style));
        }
        for operation in Operation::ALL {
            assert_eq!(serde_json::to_string(operation).unwrap(), format!("{:?}", operation.word()));
        }
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_string(mode).unwrap(), format!("{:?}", mode.word()));
        }
        assert_eq!(Style::parse("Fat"), None);
    }

    proptest! {
        #[test]
        fn any_names_survive(names in prop::collection::vec("\\PC{1,20}", 1..5), text in "\\PC*") {
            let of: Vec<&str> = names.iter().map(String::as_str).collect();
            let known = definition(&of, Some(&of), &of);
            prop_assert_eq!(Definition::parse(&known.to_text()), Some(known));
            let _ = Definition::parse(&text);
        }
    }
}
