//! Owns the mapping of a projection: what a record changes in its table.

use std::borrow::Cow;

use super::members::{Members, cell};
use super::source::{self, Source};
use crate::inbox::records::{RecordRef, headers};

/// What a record's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The row, as a JSON object. A record without a value deletes the row.
    Json,
    /// A change, as `outbox.capture()` writes it in the style `fat`: the row is its member `new`.
    Capture,
    /// The data of an event of the event store: as [`Format::Json`], but an event without data, which is `null`, has a row.
    Event,
}

impl Format {
    /// The format of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "capture" => Some(Self::Capture),
            "event" => Some(Self::Event),
            _ => None,
        }
    }
}

/// A column of the table that the projection fills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Where its value comes from.
    pub source: Source,
    /// It takes JSON as it is: its type is json or jsonb, or one that is made of JSON, such as an array.
    pub takes_json: bool,
}

/// A mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// What a record's value is.
    pub format: Format,
    /// The columns that identify a row.
    pub keys: Vec<Column>,
    /// The others.
    pub columns: Vec<Column>,
    /// Whether the topic has one partition, in which all of its records have an order.
    pub has_one_partition: bool,
}

/// The values of columns, in their order.
pub type Cells<'a> = Vec<Option<Cow<'a, str>>>;

/// What a record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A row has these values: those of the key, and the others.
    Upsert(Cells<'a>, Cells<'a>),
    /// The row with this key is gone.
    Delete(Cells<'a>),
    /// All rows are gone.
    Truncate,
}

/// What the value says of the row.
enum Row<'a> {
    Is(Members<'a>),
    IsGone,
    AreGone,
}

impl Mapping {
    /// Whether records with the same key are about the same row.
    #[must_use]
    pub fn is_keyed_by_record(&self) -> bool {
        self.keys.iter().all(|column| column.source.is_of_key())
    }

    /// Whether records with different keys are about different rows, as far as texts go: the record's key is the row's.
    #[must_use]
    pub fn is_keyed_by_text(&self) -> bool {
        self.keys.len() == 1 && self.keys.iter().all(|column| column.source == Source::Key)
    }

    /// Whether it looks at headers.
    #[must_use]
    pub fn reads_headers(&self) -> bool {
        self.keys.iter().chain(&self.columns).any(|column| matches!(column.source, Source::Header(_)))
    }

    /// What a record changes.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn change<'a>(&self, record: &RecordRef<'a>) -> Result<Change<'a>, String> {
        let row = self.row(record)?;
        if matches!(row, Row::AreGone) {
            return if self.has_one_partition { Ok(Change::Truncate) } else { Err(unordered()) };
        }
        let members = match &row {
            Row::Is(members) => Some(members),
            _ => None,
        };
        let mut look = Look { record, members, key: None };
        let keys = self.keys.iter().map(|column| look.cell(column)).collect::<Result<Cells<'a>, _>>()?;
        if keys.iter().any(Option::is_none) {
            return Err(self.no_key(record, members.is_none()));
        }
        if members.is_none() {
            return Ok(Change::Delete(keys));
        }
        let cells = self.columns.iter().map(|column| look.cell(column)).collect::<Result<Cells<'a>, _>>()?;
        Ok(Change::Upsert(keys, cells))
    }

    fn row<'a>(&self, record: &RecordRef<'a>) -> Result<Row<'a>, String> {
        let Some(value) = record.value else { return Ok(Row::IsGone) };
        let text = std::str::from_utf8(value).map_err(|error| {
            format!("the value is not valid UTF-8 from byte {} on", error.valid_up_to() + 1)
        })?;
        let text = if self.format == Format::Event && text == "null" { "{}" } else { text };
        let members = Members::of(text).map_err(|error| format!("the value: {error}"))?;
        match self.format {
            Format::Json | Format::Event => Ok(Row::Is(members)),
            Format::Capture => captured(&members),
        }
    }

    fn no_key(&self, record: &RecordRef<'_>, is_gone: bool) -> String {
        if record.key.is_none() && self.is_keyed_by_record() {
            "the record has no key, so it is about no row".into()
        } else if is_gone && !self.is_keyed_by_record() {
            "the record has no value, in which the key of the row would be".into()
        } else {
            "a part of the row's key is null or missing".into()
        }
    }
}

/// The row of a captured change.
fn captured<'a>(members: &Members<'a>) -> Result<Row<'a>, String> {
    let Some(key) = members.get("key") else {
        return Err("the value is no change of a captured table: it has no member \"key\"".into());
    };
    if members.get("omitted").is_some() {
        return Err("the change was too large for an event, so it does not have the row".into());
    }
    if key.get() == "null" {
        return Ok(Row::AreGone);
    }
    match members.get("new") {
        None => Err("the change has no member \"new\": capture the table in the style fat".into()),
        Some(new) if new.get() == "null" => Ok(Row::IsGone),
        Some(new) => {
            Members::of(new.get()).map(Row::Is).map_err(|error| format!("the member \"new\": {error}"))
        }
    }
}

fn unordered() -> String {
    "a TRUNCATE has no order among records in other partitions: delete the rows, or let the topic have one partition"
        .into()
}

/// A look at a record for the values of columns.
struct Look<'l, 'a> {
    record: &'l RecordRef<'a>,
    members: Option<&'l Members<'a>>,
    /// The members of the key, once they are needed.
    key: Option<Members<'a>>,
}

impl<'a> Look<'_, 'a> {
    fn cell(&mut self, column: &Column) -> Result<Option<Cow<'a, str>>, String> {
        let found = match &column.source {
            Source::Row(path) if path.is_empty() => return Ok(self.whole()),
            Source::Row(path) => match self.members {
                Some(members) => source::follow(members, path)?,
                None => None,
            },
            Source::InKey(path) => self.in_key(path)?,
            Source::Key => return self.key_as(column.takes_json),
            Source::Offset => return Ok(Some(self.record.offset.to_string().into())),
            Source::Partition => return Ok(Some(self.record.partition.to_string().into())),
            Source::Timestamp => return Ok(self.record.timestamp_ms.map(|ms| timestamp(ms).into())),
            Source::Header(name) => return self.header(name),
        };
        found.map_or(Ok(None), |value| cell(value, column.takes_json))
    }

    /// The value as a whole.
    fn whole(&self) -> Option<Cow<'a, str>> {
        self.record.value.and_then(|value| std::str::from_utf8(value).ok()).map(Cow::Borrowed)
    }

    fn key_as(&self, takes_json: bool) -> Result<Option<Cow<'a, str>>, String> {
        let Some(key) = self.record.key else { return Ok(None) };
        let text = source::text(key, "the key")?;
        Ok(Some(if takes_json && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            Cow::Owned(serde_json::Value::from(&*text).to_string())
        } else {
            text
        }))
    }

    fn in_key(&mut self, path: &[source::Step]) -> Result<Option<&'a serde_json::value::RawValue>, String> {
        let Some(key) = self.record.key else { return Ok(None) };
        if self.key.is_none() {
            let text = std::str::from_utf8(key).map_err(|_| "the key is not valid UTF-8".to_owned())?;
            self.key = Some(Members::of(text).map_err(|error| format!("the key: {error}"))?);
        }
        self.key.as_ref().map_or(Ok(None), |members| source::follow(members, path))
    }

    fn header(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let found = headers(self.record.headers).filter(|(of, _)| *of == name.as_bytes()).last();
        match found.and_then(|(_, value)| value) {
            Some(value) => source::text(value, "a header").map(Some),
            None => Ok(None),
        }
    }
}

/// A timestamp in a form that PostgreSQL reads as UTC.
fn timestamp(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "infinity".into(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(source: &str) -> Column {
        Column { source: Source::parse(source).unwrap(), takes_json: false }
    }

    fn mapping(format: Format, keys: &[&str], columns: &[&str]) -> Mapping {
        let all = |sources: &[&str]| sources.iter().map(|source| column(source)).collect();
        Mapping { format, keys: all(keys), columns: all(columns), has_one_partition: true }
    }

    fn record<'a>(key: Option<&'a str>, value: Option<&'a str>) -> RecordRef<'a> {
        RecordRef {
            partition: 2,
            offset: 7,
            timestamp_ms: Some(1_000),
            key: key.map(str::as_bytes),
            value: value.map(str::as_bytes),
            headers: &[],
        }
    }

    fn cells(values: &[Option<&'static str>]) -> Cells<'static> {
        values.iter().map(|value| value.map(Cow::Borrowed)).collect()
    }

    #[test]
    fn a_value_is_a_row_and_a_tombstone_its_end() {
        let mapping = mapping(Format::Json, &["@key"], &["$.a", "$.b.c", "@offset", "@timestamp"]);
        let change = mapping.change(&record(Some("k"), Some(r#"{"a": "x", "b": {"c": 1.50}}"#))).unwrap();
        let row = cells(&[Some("x"), Some("1.50"), Some("7"), Some("1970-01-01T00:00:01Z")]);
        assert_eq!(change, Change::Upsert(cells(&[Some("k")]), row));
        assert_eq!(mapping.change(&record(Some("k"), None)), Ok(Change::Delete(cells(&[Some("k")]))));
        let missing = cells(&[None, None, Some("7"), Some("1970-01-01T00:00:01Z")]);
        assert_eq!(
            mapping.change(&record(Some("k"), Some("{}"))),
            Ok(Change::Upsert(cells(&[Some("k")]), missing))
        );
    }

    #[test]
    fn an_event_without_data_has_a_row() {
        let mapping = mapping(Format::Event, &["@key"], &["$.a", "@offset"]);
        let row = Change::Upsert(cells(&[Some("a-1")]), cells(&[None, Some("7")]));
        assert_eq!(mapping.change(&record(Some("a-1"), Some("null"))), Ok(row));
        let error = Err("the value: it is not a JSON object".into());
        assert_eq!(mapping.change(&record(Some("a-1"), Some("1"))), error);
    }

    #[test]
    fn what_cannot_be_a_row_says_why() {
        let by_key = mapping(Format::Json, &["@key"], &[]);
        for (key, value, error) in [
            (None, Some("{}"), "the record has no key, so it is about no row"),
            (Some("k"), Some("[]"), "the value: it is not a JSON object"),
            (Some("k\0"), Some("{}"), "the key has a zero byte, which text cannot have"),
        ] {
            assert_eq!(by_key.change(&record(key, value)), Err(error.into()));
        }
        let by_value = mapping(Format::Json, &["$.id"], &[]);
        assert_eq!(
            by_value.change(&record(Some("k"), None)),
            Err("the record has no value, in which the key of the row would be".into())
        );
        assert_eq!(
            by_value.change(&record(None, Some("{}"))),
            Err("a part of the row's key is null or missing".into())
        );
    }

    #[test]
    fn a_key_of_several_columns_is_an_object() {
        let mapping = mapping(Format::Json, &["@key.a", "@key.b"], &[]);
        let change = mapping.change(&record(Some(r#"{"a":1,"b":"x"}"#), None));
        assert_eq!(change, Ok(Change::Delete(cells(&[Some("1"), Some("x")]))));
        assert_eq!(mapping.change(&record(Some("1"), None)), Err("the key: it is not a JSON object".into()));
    }

    #[test]
    fn captured_changes_are_understood() {
        let mapping = mapping(Format::Capture, &["@key"], &["$.v"]);
        let change = |value| mapping.change(&record(Some("1"), Some(value)));
        let row = || Ok(Change::Upsert(cells(&[Some("1")]), cells(&[Some("x")])));
        assert_eq!(change(r#"{"key":{"id":1},"old":null,"new":{"id":1,"v":"x"}}"#), row());
        assert_eq!(
            change(r#"{"key":{"id":1},"old":{"id":1},"new":null}"#),
            Ok(Change::Delete(cells(&[Some("1")])))
        );
        assert_eq!(change(r#"{"key":null}"#), Ok(Change::Truncate));
        assert!(change(r#"{"key":{"id":1},"changed":{"v":"x"}}"#).unwrap_err().contains("style fat"));
        assert!(change(r#"{"key":{"id":1},"omitted":"too_large"}"#).unwrap_err().contains("too large"));
        assert!(change(r#"{"key":null,"omitted":"too_large"}"#).unwrap_err().contains("too large"));
        let several = Mapping { has_one_partition: false, ..mapping.clone() };
        assert!(several.change(&record(None, Some(r#"{"key":null}"#))).unwrap_err().contains("TRUNCATE"));
    }
}
