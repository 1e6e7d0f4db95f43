//! Judges the table of the projection: it has the last record of each key that says something, and nothing else.

use std::collections::HashMap;

use super::{Verdict, Violation};
use crate::evidence::{Evidence, ProjectedRow, Says, key_digest};
use crate::receivers::PROJECTED;

impl Verdict {
    /// Compares the rows with all records of the topic.
    pub(super) fn judge_projection(&mut self, evidence: &Evidence) {
        let Some(inbox) = &evidence.inbox else { return };
        // By key and partition: the offset, and whether there is a row after it. Partitions have no order among each other.
        let mut last: HashMap<u64, HashMap<i32, (i64, bool)>> = HashMap::new();
        let keyless = key_digest(None);
        for record in evidence.records.iter().filter(|record| record.topic == PROJECTED) {
            if record.key == keyless || record.says == Says::Nothing {
                continue;
            }
            let of_key = last.entry(record.key).or_default().entry(record.partition).or_insert((-1, false));
            if record.offset > of_key.0 {
                *of_key = (record.offset, record.says == Says::Row);
            }
        }
        let mut rows: HashMap<u64, &ProjectedRow> = inbox.rows.iter().map(|row| (row.key, row)).collect();
        for (key, of_key) in &last {
            let row = rows.remove(key);
            let is_right = match row {
                Some(row) => of_key.get(&row.partition) == Some(&(row.offset, true)),
                None => of_key.values().any(|(_, is_row)| !is_row),
            };
            match is_right {
                true => self.projected += 1,
                false => self.report(Violation::Misprojected, || format!("{row:?} of {of_key:?}")),
            }
        }
        for row in rows.values() {
            self.report(Violation::Misprojected, || format!("{row:?} of no record"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{Inbox, Seen};

    fn record(key: &[u8], partition: i32, offset: i64, says: Says) -> Seen {
        Seen {
            topic: PROJECTED,
            generation: 0,
            partition,
            offset,
            at: 0,
            event_id: None,
            key: key_digest(Some(key)),
            content: None,
            says,
        }
    }

    fn row(key: &[u8], partition: i32, offset: i64) -> ProjectedRow {
        ProjectedRow { key: key_digest(Some(key)), partition, offset }
    }

    fn misprojected(rows: Vec<ProjectedRow>) -> usize {
        let records = vec![
            record(b"a", 0, 1, Says::Row),
            record(b"a", 0, 2, Says::Row),
            record(b"a", 0, 3, Says::Nothing),
            record(b"b", 0, 4, Says::Row),
            record(b"b", 0, 5, Says::End),
            record(b"c", 0, 6, Says::Row),
            record(b"c", 1, 1, Says::Row),
            Seen { key: key_digest(None), ..record(b"", 1, 9, Says::Row) },
            Seen { topic: PROJECTED + 1, ..record(b"d", 0, 1, Says::Row) },
        ];
        let inbox = Some(Inbox { rows, ..Inbox::default() });
        let mut verdict = Verdict::default();
        verdict.judge_projection(&Evidence { records, inbox, ..Evidence::default() });
        verdict.count(Violation::Misprojected)
    }

    #[test]
    fn the_last_record_of_each_key_is_in_the_table() {
        assert_eq!(misprojected(vec![row(b"a", 0, 2), row(b"c", 0, 6)]), 0);
        assert_eq!(misprojected(vec![row(b"a", 0, 2), row(b"c", 1, 1)]), 0, "partitions have no order");
        for (wrong, rows) in [
            ("an older record", vec![row(b"a", 0, 1), row(b"c", 0, 6)]),
            ("one that says nothing", vec![row(b"a", 0, 3), row(b"c", 0, 6)]),
            ("a row is missing", vec![row(b"c", 0, 6)]),
            ("a row that has ended", vec![row(b"a", 0, 2), row(b"b", 0, 4), row(b"c", 0, 6)]),
            ("a row of another topic", vec![row(b"a", 0, 2), row(b"c", 0, 6), row(b"d", 0, 1)]),
            ("another partition", vec![row(b"a", 1, 2), row(b"c", 0, 6)]),
        ] {
            assert_eq!(misprojected(rows), 1, "{wrong}");
        }
    }
}
