//! Owns the statements that write rows into the table of a projection.
//!
//! Runs in: the process of a projection, in a transaction, as the owner of the table, within [`crate::pg::spi::connected`].

use std::cell::OnceCell;
use std::ffi::CString;

use event_outbox_policy::inbox::projection::mapping::Cells;
use event_outbox_policy::inbox::projection::reduction::Reduced;
use pgrx::prelude::*;

use crate::pg::plan::Plan;
use crate::pg::spi::{self, Access};

/// Checks of constraints that wait for the commit happen now, while it can be told whose row has failed.
const CHECK_NOW: &std::ffi::CStr = c"SET CONSTRAINTS ALL IMMEDIATE";

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its type, or the one that its domain is over, without a modifier.
    pub type_name: String,
    /// Values are JSON as it is.
    pub takes_json: bool,
    /// Values are made of that JSON: the type is an array or a composite type.
    pub is_made_of_json: bool,
    /// Nothing can be written to it.
    pub is_generated: bool,
    /// Two values are the same if and only if their texts are.
    pub is_exact: bool,
    /// The operator by which a unique index finds values of it, if it is in one.
    pub equals: Option<String>,
}

impl TableColumn {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    /// A value of its type from the text in `cell`.
    fn value(&self, cell: &str) -> String {
        let name = &self.type_name;
        if self.is_made_of_json {
            format!(
                "(SELECT x.v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object('v', \
                 {cell}::pg_catalog.jsonb)) AS x(v {name}))"
            )
        } else {
            format!("{cell}::{name}")
        }
    }
}

/// How rows come into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The table has none: rows that are gone are not in it, and no other is in the way.
    Insert,
    /// Each in the place of the one with its key.
    Upsert,
}

/// Writes rows.
pub struct Writer {
    table: String,
    keys: Vec<TableColumn>,
    others: Vec<TableColumn>,
    insert: OnceCell<Plan>,
    upsert: OnceCell<Plan>,
    upsert_and_delete: OnceCell<Plan>,
    delete_all: OnceCell<Plan>,
    check_now: OnceCell<Plan>,
}

impl Writer {
    /// Writes to a table, by its quoted name, these columns of the key and others.
    #[must_use]
    pub fn new(table: &str, keys: Vec<TableColumn>, others: Vec<TableColumn>) -> Self {
        Self {
            table: table.into(),
            keys,
            others,
            insert: OnceCell::new(),
            upsert: OnceCell::new(),
            upsert_and_delete: OnceCell::new(),
            delete_all: OnceCell::new(),
            check_now: OnceCell::new(),
        }
    }

    fn columns(&self) -> impl Iterator<Item = &TableColumn> {
        self.keys.iter().chain(&self.others)
    }

    /// Writes what is left of a batch. An ERROR if there is a row after all where none was expected.
    pub fn apply(&self, reduced: &Reduced<'_>, way: Way) {
        if reduced.truncates {
            let text = format!("DELETE FROM {}", self.table);
            self.delete_all.get_or_init(|| prepare(&text, 0)).execute(&[]);
        }
        if !reduced.rows.is_empty() {
            let (plan, text) = self.statement(reduced, way);
            let plan = plan.get_or_init(|| prepare(&text(self), self.columns().count()));
            plan.execute(&self.arguments(reduced));
        }
        if !reduced.is_empty() {
            self.check_now.get_or_init(|| Plan::prepare(CHECK_NOW, &[])).execute(&[]);
        }
    }

    /// The statement for a batch: where it is kept, and its text.
    fn statement(&self, reduced: &Reduced<'_>, way: Way) -> (&OnceCell<Plan>, fn(&Self) -> String) {
        let deletes = reduced.rows.iter().any(|(_, cells)| cells.is_none());
        match way {
            Way::Insert => (&self.insert, Self::insert_text),
            Way::Upsert if deletes => (&self.upsert_and_delete, Self::upsert_and_delete_text),
            Way::Upsert => (&self.upsert, Self::upsert_text),
        }
    }

    /// An array for each column, and whether each row is gone.
    fn arguments(&self, reduced: &Reduced<'_>) -> Vec<Option<pg_sys::Datum>> {
        let keys = (0..self.keys.len()).map(|at| {
            let cells: Vec<Option<&str>> = reduced.rows.iter().map(|(key, _)| key[at].as_deref()).collect();
            cells.into_datum()
        });
        let others = (0..self.others.len()).map(|at| {
            let cells: Vec<Option<&str>> = reduced.rows.iter().map(|row| cell_at(row, at)).collect();
            cells.into_datum()
        });
        let gone: Vec<bool> = reduced.rows.iter().map(|(_, cells)| cells.is_none()).collect();
        keys.chain(others).chain([gone.into_datum()]).collect()
    }

    fn cells(&self) -> String {
        list((1..=self.columns().count()).map(|number| format!("r.c{number}")))
    }

    /// Nothing has to be looked up for a row, and each is written once: half of the time of an upsert.
    fn insert_text(&self) -> String {
        let (insertion, cells, rows) = (self.insertion(&self.table), self.cells(), self.rows());
        format!("{insertion} SELECT {cells} FROM ({rows}) AS r WHERE NOT r.gone")
    }

    fn upsert_text(&self) -> String {
        let (insertion, cells, rows) = (self.insertion(&self.table), self.cells(), self.rows());
        format!("{insertion} SELECT {cells} FROM ({rows}) AS r {}", self.on_conflict())
    }

    /// Upserts the rows that are not gone, and deletes those that are.
    fn upsert_and_delete_text(&self) -> String {
        let (insertion, cells, rows) = (self.insertion(&self.table), self.cells(), self.rows());
        let conflict = self.on_conflict();
        let conditions = self.keys.iter().enumerate().map(|(at, key)| {
            let equals = key.equals.as_deref().unwrap_or("OPERATOR(pg_catalog.=)");
            format!("t.{} {equals} r.c{}", key.quoted(), at + 1)
        });
        format!(
            "WITH r AS MATERIALIZED ({rows}), gone AS (DELETE FROM {} AS t USING r WHERE r.gone AND {}) \
             {insertion} SELECT {cells} FROM r WHERE NOT r.gone {conflict}",
            self.table,
            conditions.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// The rows of the arguments, with values of the columns' types. Texts of keys that differ can be the same value of their
    /// type, and so the same row: the last one counts.
    fn rows(&self) -> String {
        let count = self.columns().count();
        let parameters = list((1..=count + 1).map(|number| format!("${number}")));
        let cells = list((1..=count).map(|number| format!("c{number}")));
        let values = list(self.columns().enumerate().map(|(at, column)| {
            let name = format!("c{}", at + 1);
            format!("{} AS {name}", column.value(&format!("u.{name}")))
        }));
        if self.keys.iter().all(|key| key.is_exact) {
            return format!("SELECT {values}, u.gone FROM unnest({parameters}) AS u({cells}, gone)");
        }
        let keys = list((1..=self.keys.len()).map(|number| format!("v.c{number}")));
        format!(
            "SELECT DISTINCT ON ({keys}) v.* FROM (SELECT {values}, u.gone, u.n \
             FROM unnest({parameters}) WITH ORDINALITY AS u({cells}, gone, n)) AS v ORDER BY {keys}, v.n DESC"
        )
    }

    fn insertion(&self, table: &str) -> String {
        format!(
            "INSERT INTO {table} AS t ({}) OVERRIDING SYSTEM VALUE",
            list(self.columns().map(TableColumn::quoted))
        )
    }

    /// A row that is as it should be is left alone.
    fn on_conflict(&self) -> String {
        let keys = list(self.keys.iter().map(TableColumn::quoted));
        if self.others.is_empty() {
            return format!("ON CONFLICT ({keys}) DO NOTHING");
        }
        let others = |of: &str| list(self.others.iter().map(|column| format!("{of}.{}", column.quoted())));
        format!(
            "ON CONFLICT ({keys}) DO UPDATE SET {} \
             WHERE ROW({})::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW({})::pg_catalog.record",
            list(self.others.iter().map(|column| format!("{0} = excluded.{0}", column.quoted()))),
            others("t"),
            others("excluded")
        )
    }

    /// Whether the table has no rows.
    #[must_use]
    pub fn has_no_rows(&self) -> bool {
        spi::query(&c_text(&format!("SELECT FROM {} LIMIT 1", self.table)), Access::Read).is_empty()
    }

    /// Gives another table, by its quoted name, the rows of this one: it has the same columns.
    pub fn copy_to(&self, other: &str) {
        let conditions = self.keys.iter().map(|key| {
            let equals = key.equals.as_deref().unwrap_or("OPERATOR(pg_catalog.=)");
            format!("t.{0} {equals} n.{0}", key.quoted())
        });
        let conditions = conditions.collect::<Vec<_>>().join(" AND ");
        let deletion = format!(
            "DELETE FROM {other} AS t WHERE NOT EXISTS (SELECT FROM {} AS n WHERE {conditions})",
            self.table
        );
        prepare_without_arguments(&deletion).execute(&[]);
        let upsert = format!(
            "{} SELECT {} FROM {} AS n {}",
            self.insertion(other),
            list(self.columns().map(|column| format!("n.{}", column.quoted()))),
            self.table,
            self.on_conflict()
        );
        prepare_without_arguments(&upsert).execute(&[]);
        Plan::prepare(CHECK_NOW, &[]).execute(&[]);
    }
}

/// The value of a column besides the key; `None` for null, or if the row is gone.
fn cell_at<'c>((_, cells): &'c (Cells<'_>, Option<Cells<'_>>), at: usize) -> Option<&'c str> {
    cells.as_ref().and_then(|cells| cells[at].as_deref())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// A statement whose parameters are an array of text for each column, and one that says which rows are gone.
fn prepare(text: &str, columns: usize) -> Plan {
    let mut types = vec![pg_sys::TEXTARRAYOID; columns];
    if columns > 0 {
        types.push(pg_sys::BOOLARRAYOID);
    }
    Plan::prepare(&c_text(text), &types)
}

fn prepare_without_arguments(text: &str) -> Plan {
    Plan::prepare(&c_text(text), &[])
}

fn c_text(text: &str) -> CString {
    // Names of PostgreSQL have no zero byte.
    CString::new(text.replace('\0', "")).unwrap_or_default()
}
