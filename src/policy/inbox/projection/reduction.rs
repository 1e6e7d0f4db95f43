//! Owns the reduction of a batch: of all changes of a row, the last one is left.
//!
//! A record of which no change can be made counts as if it were not there, and is told apart.

use std::collections::HashSet;

use foldhash::fast::RandomState;

use super::mapping::{Cells, Change, Mapping};
use crate::inbox::records::RecordRef;

/// What is left of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reduced<'a> {
    /// Whether all rows go before anything else.
    pub truncates: bool,
    /// The last change of each row, in their order: its key, and its values unless the row is gone. Texts that mean the same
    /// value of their type, such as `1` and `01`, are left to the table.
    pub rows: Vec<(Cells<'a>, Option<Cells<'a>>)>,
    /// The records that say nothing, by their places, each with the reason. Those that later ones of their row make
    /// meaningless are not looked at.
    pub faults: Vec<(usize, String)>,
}

impl<'a> Reduced<'a> {
    /// What is left of records by a mapping. `fault` says why a record has no value that can be looked at, if so.
    #[must_use]
    pub fn of(records: &[RecordRef<'a>], mapping: &Mapping, fault: impl Fn(usize) -> Option<String>) -> Self {
        let record_key = |place: usize| records[place].key.filter(|_| mapping.is_keyed_by_record());
        let change = |place: usize| fault(place).map_or_else(|| mapping.change(&records[place]), Err);
        Self::from_last(records.len(), mapping.is_keyed_by_text(), record_key, change)
    }

    /// The same with any changes. Those whose records have the same key are about the same row; with `is_exact`, all others
    /// are about others.
    fn from_last(
        count: usize,
        is_exact: bool,
        record_key: impl Fn(usize) -> Option<&'a [u8]>,
        change: impl Fn(usize) -> Result<Change<'a>, String>,
    ) -> Self {
        let mut reduced = Self::default();
        let mut record_keys: HashSet<&[u8], RandomState> = HashSet::default();
        let mut row_keys: HashSet<Cells<'a>, RandomState> = HashSet::default();
        for place in (0..count).rev() {
            let key = record_key(place);
            if key.is_some_and(|key| record_keys.contains(key)) {
                continue;
            }
            let (row_key, cells) = match change(place) {
                Ok(Change::Upsert(row_key, cells)) => (row_key, Some(cells)),
                Ok(Change::Delete(row_key)) => (row_key, None),
                Ok(Change::Truncate) => {
                    reduced.truncates = true;
                    break;
                }
                Err(fault) => {
                    reduced.faults.push((place, fault));
                    continue;
                }
            };
            let is_known = key.is_some_and(|key| record_keys.insert(key)) && is_exact;
            if is_known || row_keys.insert(row_key.clone()) {
                reduced.rows.push((row_key, cells));
            }
        }
        reduced.rows.reverse();
        reduced.faults.reverse();
        reduced
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.truncates && self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Table = BTreeMap<String, String>;
    type Said = Result<Change<'static>, String>;

    fn cell(text: &str) -> Cells<'static> {
        vec![Some(Cow::Owned(text.to_owned()))]
    }

    fn change() -> impl Strategy<Value = Said> {
        let key = (0..5_u8).prop_map(|key| cell(&key.to_string()));
        let value = (0..100_u8).prop_map(|value| cell(&value.to_string()));
        prop_oneof![
            8 => (key.clone(), value).prop_map(|(key, value)| Ok(Change::Upsert(key, value))),
            3 => key.prop_map(|key| Ok(Change::Delete(key))),
            1 => Just(Ok(Change::Truncate)),
            1 => Just(Err("a fault".to_owned())),
        ]
    }

    fn text(cells: &Cells<'_>) -> String {
        cells[0].as_deref().unwrap().to_owned()
    }

    /// One change after the other.
    fn apply(table: &mut Table, change: &Said) {
        match change {
            Ok(Change::Upsert(key, value)) => drop(table.insert(text(key), text(value))),
            Ok(Change::Delete(key)) => drop(table.remove(&text(key))),
            Ok(Change::Truncate) => table.clear(),
            Err(_) => {}
        }
    }

    /// As the table gets it: first the end of all rows, then the others.
    fn apply_reduced(table: &mut Table, reduced: &Reduced<'_>) {
        if reduced.truncates {
            table.clear();
        }
        for (key, cells) in &reduced.rows {
            match cells {
                Some(cells) => drop(table.insert(text(key), text(cells))),
                None => drop(table.remove(&text(key))),
            }
        }
    }

    /// The row of a change as the bytes of its record's key; a fault is of row 0.
    fn record_key(change: &Said) -> Option<&'static [u8]> {
        const KEYS: [&[u8]; 5] = [b"0", b"1", b"2", b"3", b"4"];
        match change {
            Ok(Change::Upsert(key, _) | Change::Delete(key)) => {
                Some(KEYS[text(key).parse::<usize>().unwrap()])
            }
            Ok(Change::Truncate) => None,
            Err(_) => Some(KEYS[0]),
        }
    }

    fn by_row(changes: &[Said]) -> Reduced<'static> {
        Reduced::from_last(changes.len(), false, |_| None, |place| changes[place].clone())
    }

    fn by_record(changes: &[Said]) -> Reduced<'static> {
        let key = |place: usize| record_key(&changes[place]);
        Reduced::from_last(changes.len(), true, key, |place| changes[place].clone())
    }

    /// Each second record writes its key in another way.
    fn by_either(changes: &[Said]) -> Reduced<'static> {
        let key = |place: usize| record_key(&changes[place]).filter(|_| place.is_multiple_of(2));
        Reduced::from_last(changes.len(), false, key, |place| changes[place].clone())
    }

    /// Wrong variants of the reduction, which a schedule must catch.
    fn keeps_the_first(changes: &[Said]) -> Reduced<'static> {
        let reversed: Vec<Said> = changes.iter().rev().cloned().collect();
        by_record(&reversed)
    }

    fn forgets_deletes(changes: &[Said]) -> Reduced<'static> {
        let mut reduced = by_record(changes);
        reduced.rows.retain(|(_, cells)| cells.is_some());
        reduced
    }

    fn truncates_last(changes: &[Said]) -> Reduced<'static> {
        let truncates = changes.contains(&Ok(Change::Truncate));
        let without: Vec<Said> =
            changes.iter().filter(|change| **change != Ok(Change::Truncate)).cloned().collect();
        Reduced { truncates, ..by_record(&without) }
    }

    fn lets_a_fault_hide_what_was_before(changes: &[Said]) -> Reduced<'static> {
        let last_of_row = |place: usize| {
            let key = record_key(&changes[place]);
            key.is_none() || changes[place + 1..].iter().all(|later| record_key(later) != key)
        };
        let last: Vec<Said> = (0..changes.len())
            .filter(|place| last_of_row(*place))
            .map(|place| changes[place].clone())
            .collect();
        by_record(&last)
    }

    type Reduce = fn(&[Said]) -> Reduced<'static>;

    fn is_right(batches: &[Vec<Said>], reduce: Reduce) -> bool {
        let (mut one_by_one, mut reduced) = (Table::new(), Table::new());
        batches.iter().all(|batch| {
            batch.iter().for_each(|change| apply(&mut one_by_one, change));
            apply_reduced(&mut reduced, &reduce(batch));
            one_by_one == reduced
        })
    }

    fn schedules() -> impl Strategy<Value = Vec<Vec<Said>>> {
        prop::collection::vec(prop::collection::vec(change(), 0..20), 1..6)
    }

    proptest! {
        #[test]
        fn a_reduced_batch_leaves_the_table_as_its_changes_do(batches in schedules()) {
            prop_assert!(is_right(&batches, by_row));
            prop_assert!(is_right(&batches, by_record));
            prop_assert!(is_right(&batches, by_either));
        }

        #[test]
        fn each_row_is_left_once(changes in prop::collection::vec(change(), 0..60)) {
            for reduced in [by_row(&changes), by_record(&changes), by_either(&changes)] {
                let keys: std::collections::BTreeSet<String> =
                    reduced.rows.iter().map(|(key, _)| text(key)).collect();
                prop_assert_eq!(keys.len(), reduced.rows.len());
            }
        }
    }

    #[test]
    fn wrong_reductions_are_noticed() {
        use proptest::strategy::ValueTree;
        use proptest::test_runner::TestRunner;
        let mut runner = TestRunner::deterministic();
        let schedules: Vec<_> =
            (0..200).map(|_| schedules().new_tree(&mut runner).unwrap().current()).collect();
        let wrong: [(&str, Reduce); 4] = [
            ("keeps the first", keeps_the_first),
            ("forgets deletes", forgets_deletes),
            ("truncates last", truncates_last),
            ("lets a fault hide what was before", lets_a_fault_hide_what_was_before),
        ];
        for (name, reduce) in wrong {
            assert!(schedules.iter().any(|batches| !is_right(batches, reduce)), "{name} was not noticed");
        }
    }
}
