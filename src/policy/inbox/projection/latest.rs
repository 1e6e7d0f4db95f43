//! Owns the records that a transaction of a projection has taken: of those with the same key, it keeps the last one.
//!
//! So a transaction can take many more records than it keeps in memory. A record that turns out to say nothing must not hide
//! one before it: if such a one has hidden any, [`Latest::has_hidden`], the records are to be taken again and all to be kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::inbox::records::{RecordBatch, RecordRef};

/// What a record takes besides its bytes, about.
const OVERHEAD: usize = 96;

/// How many bytes may be hidden, if more are kept or not, before they are given back.
const HIDDEN: usize = 4 << 20;

/// Records, each with what the caller knows of it.
pub struct Latest<T, S = RandomState> {
    records: RecordBatch,
    all: Vec<Kept<T>>,
    /// The number of the last record of each key, by the key's hash; `None` if all are kept. Of two keys that have the same
    /// hash, one is not in it: its records are all kept.
    numbers: Option<HashMap<u64, usize, RandomState>>,
    hasher: S,
    count: usize,
    bytes: usize,
    hidden_bytes: usize,
    /// How many bytes may be hidden before they are given back.
    slack: usize,
}

struct Kept<T> {
    what: T,
    /// A later one of the key has been pushed.
    is_hidden: bool,
    has_hidden: bool,
}

impl<T, S: BuildHasher + Default> Latest<T, S> {
    /// No records. With `keeps_all`, none of them will be hidden.
    #[must_use]
    pub fn new(keeps_all: bool) -> Self {
        Self {
            records: RecordBatch::default(),
            all: Vec::new(),
            numbers: (!keeps_all).then(HashMap::default),
            hasher: S::default(),
            count: 0,
            bytes: 0,
            hidden_bytes: 0,
            slack: HIDDEN,
        }
    }

    /// Adds a record. One that is known to say nothing, which is not `is_usable`, hides none.
    pub fn push(&mut self, record: RecordRef<'_>, what: T, is_usable: bool) {
        let number = self.all.len();
        let hidden = if is_usable { self.hidden_by(&record, number) } else { None };
        self.records.push(record);
        self.all.push(Kept { what, is_hidden: false, has_hidden: hidden.is_some() });
        self.count += 1;
        self.bytes += record.length() + OVERHEAD;
        if let Some(hidden) = hidden {
            let length = self.records.get(hidden).map_or(0, |record| record.length()) + OVERHEAD;
            self.all[hidden].is_hidden = true;
            self.bytes -= length;
            self.hidden_bytes += length;
        }
        if self.hidden_bytes > self.bytes.max(self.slack) {
            self.give_back();
        }
    }

    /// Has the record be the last one of its key, and returns which was.
    fn hidden_by(&mut self, record: &RecordRef<'_>, number: usize) -> Option<usize> {
        let key = record.key?;
        let numbers = self.numbers.as_mut()?;
        match numbers.entry(self.hasher.hash_one(key)) {
            Entry::Vacant(entry) => {
                entry.insert(number);
                None
            }
            Entry::Occupied(mut entry) => {
                let is_same = self.records.get(*entry.get()).is_some_and(|last| last.key == Some(key));
                is_same.then(|| entry.insert(number))
            }
        }
    }

    /// Frees what hidden records take.
    fn give_back(&mut self) {
        self.records.retain(|number| !self.all[number].is_hidden);
        let mut left = 0;
        let moved: Vec<usize> = self
            .all
            .iter()
            .map(|kept| {
                left += usize::from(!kept.is_hidden);
                left.wrapping_sub(1)
            })
            .collect();
        if let Some(numbers) = &mut self.numbers {
            numbers.values_mut().for_each(|number| *number = moved[*number]);
        }
        self.all.retain(|kept| !kept.is_hidden);
        self.hidden_bytes = 0;
    }

    /// How many records were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// What those that are kept take in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leaves only those that are kept. From now on, they are known by their places in [`Latest::records`].
    pub fn finish(&mut self) {
        self.give_back();
    }

    /// Those that are kept, in their order.
    #[must_use]
    pub fn records(&self) -> Vec<RecordRef<'_>> {
        self.records.iter().collect()
    }

    /// What the caller knows of a record.
    #[must_use]
    pub fn what(&self, place: usize) -> Option<&T> {
        self.all.get(place).map(|kept| &kept.what)
    }

    /// Whether a record has hidden others.
    #[must_use]
    pub fn has_hidden(&self, place: usize) -> bool {
        self.all.get(place).is_some_and(|kept| kept.has_hidden)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, Hasher};

    use proptest::prelude::*;

    use super::super::mapping::{Change, Column, Format, Mapping};
    use super::super::reduction::Reduced;
    use super::super::source::Source;
    use super::*;

    /// Two keys of three have the same hash.
    #[derive(Default)]
    struct Poor(u64);

    impl Hasher for Poor {
        fn finish(&self) -> u64 {
            self.0 % 2
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0 += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
    }

    type Poorly = BuildHasherDefault<Poor>;

    /// What is known of a record: its number, and why its value could not be decoded.
    type Known = (usize, Option<String>);

    #[derive(Debug, Clone)]
    struct Said {
        key: Option<u8>,
        value: Option<String>,
        is_decoded: bool,
    }

    fn said() -> impl Strategy<Value = Said> {
        let value = prop_oneof![
            8 => (0..100_u8).prop_map(|n| Some(format!(r#"{{"key": {{}}, "new": {{"v": {n}}}}}"#))),
            2 => Just(Some(r#"{"key": {}, "new": null}"#.to_owned())),
            2 => Just(None),
            1 => Just(Some(r#"{"key": null}"#.to_owned())),
            1 => Just(Some("no JSON".to_owned())),
        ];
        (prop::option::weighted(0.95, 0..5_u8), value, prop::bool::weighted(0.95))
            .prop_map(|(key, value, is_decoded)| Said { key, value, is_decoded })
    }

    fn mapping() -> Mapping {
        let column = |source| Column { source: Source::parse(source).unwrap(), takes_json: false };
        Mapping {
            format: Format::Capture,
            keys: vec![column("@key")],
            columns: vec![column("$.v")],
            has_one_partition: true,
        }
    }

    fn read<S: BuildHasher + Default>(all: &[Said], keeps_all: bool) -> Latest<Known, S> {
        let mut latest = Latest { slack: 300, ..Latest::new(keeps_all) };
        for (number, said) in all.iter().enumerate() {
            let key = said.key.map(|key| vec![b'a' + key; 3]);
            let record = RecordRef {
                partition: 0,
                offset: 0,
                timestamp_ms: None,
                key: key.as_deref(),
                value: said.value.as_deref().map(str::as_bytes),
                headers: &[],
            };
            let fault = (!said.is_decoded).then(|| "not decoded".to_owned());
            latest.push(record, (number, fault), said.is_decoded);
        }
        latest.finish();
        latest
    }

    type Outcome = (bool, Vec<Change<'static>>, Vec<(usize, String)>);

    /// What is left of the records; `None` if they have to be taken again.
    fn outcome<S: BuildHasher + Default>(
        all: &[Said],
        keeps_all: bool,
        looks_again: bool,
    ) -> Option<Outcome> {
        let latest = read::<S>(all, keeps_all);
        assert_eq!(latest.count(), all.len());
        let records = latest.records();
        let fault = |place: usize| latest.what(place).and_then(|(_, fault)| fault.clone());
        let reduced = Reduced::of(&records, &mapping(), fault);
        if looks_again && reduced.faults.iter().any(|(place, _)| latest.has_hidden(*place)) {
            return None;
        }
        let owned = |cells: &super::super::mapping::Cells<'_>| {
            cells.iter().map(|cell| cell.as_ref().map(|cell| cell.to_string().into())).collect()
        };
        let rows = reduced.rows.iter().map(|(key, cells)| match cells {
            Some(cells) => Change::Upsert(owned(key), owned(cells)),
            None => Change::Delete(owned(key)),
        });
        let faults = reduced.faults.iter().map(|(place, why)| (latest.what(*place).unwrap().0, why.clone()));
        Some((reduced.truncates, rows.collect(), faults.collect()))
    }

    proptest! {
        #[test]
        fn what_is_hidden_changes_nothing(all in prop::collection::vec(said(), 0..40)) {
            let whole = outcome::<RandomState>(&all, true, true).unwrap();
            let kept = [outcome::<RandomState>(&all, false, true), outcome::<Poorly>(&all, false, true)];
            for kept in kept.iter().flatten() {
                prop_assert_eq!(kept, &whole);
            }
        }

        #[test]
        fn only_a_record_that_says_nothing_has_them_taken_again(all in prop::collection::vec(said(), 0..40)) {
            let has_fault = all.iter().any(|said| {
                said.key.is_none() || !said.is_decoded || said.value.as_deref() == Some("no JSON")
            });
            prop_assert!(has_fault || outcome::<RandomState>(&all, false, true).is_some());
        }

        #[test]
        fn one_record_of_each_key_is_kept(keys in prop::collection::vec(0..5_u8, 0..60)) {
            let all: Vec<Said> =
                keys.iter().map(|key| Said { key: Some(*key), value: None, is_decoded: true }).collect();
            let latest = read::<RandomState>(&all, false);
            let distinct: std::collections::BTreeSet<u8> = keys.into_iter().collect();
            prop_assert_eq!(latest.records().len(), distinct.len());
            prop_assert_eq!(latest.bytes(), distinct.len() * (3 + OVERHEAD));
        }
    }

    #[test]
    fn a_fault_that_hides_is_noticed() {
        use proptest::strategy::ValueTree;
        use proptest::test_runner::TestRunner;
        let mut runner = TestRunner::deterministic();
        let strategy = prop::collection::vec(said(), 0..40);
        let is_noticed = (0..200).any(|_| {
            let all = strategy.new_tree(&mut runner).unwrap().current();
            outcome::<RandomState>(&all, false, false) != outcome::<RandomState>(&all, true, true)
        });
        assert!(is_noticed, "that records are not taken again was not noticed");
    }
}
