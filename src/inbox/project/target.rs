//! Owns the table of a projection: its columns as they are at present, and the statements that write them.
//!
//! Runs in: the process of a projection, in a transaction, as the owner of the table.

use std::ffi::CStr;

use event_outbox_policy::inbox::projection::mapping::{Column, Mapping};
use event_outbox_policy::inbox::projection::reduction::Reduced;
use event_outbox_policy::inbox::projection::source::{Source, Step};
use pgrx::prelude::*;

use super::definition::{Definition, Sourced};
use super::rows::{TableColumn, Way, Writer};
use crate::pg::relation::{self, OpenRelation};
use crate::pg::snapshot::Snapshot;
use crate::pg::spi::{self, Access, Statement};
use crate::pg::user_error::UserError;
use crate::pg::watch;

/// The columns of a table, with the operator by which an index on the key finds those of the key.
static COLUMNS: Statement = Statement::new(
    c"SELECT a.attname::pg_catalog.text, a.atttypid, \
             a.attgenerated OPERATOR(pg_catalog.<>) '' OR a.attidentity OPERATOR(pg_catalog.=) 'a', \
             (SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) \
                FROM pg_catalog.pg_index AS i \
                     CROSS JOIN LATERAL unnest(i.indkey::pg_catalog.int2[], i.indclass::pg_catalog.oid[]) AS k(number, class) \
                     JOIN pg_catalog.pg_opclass AS c ON c.oid OPERATOR(pg_catalog.=) k.class \
                     JOIN pg_catalog.pg_amop AS m ON m.amopfamily OPERATOR(pg_catalog.=) c.opcfamily \
                          AND m.amopstrategy OPERATOR(pg_catalog.=) 3 \
                          AND m.amoplefttype OPERATOR(pg_catalog.=) c.opcintype \
                          AND m.amoprighttype OPERATOR(pg_catalog.=) c.opcintype \
                     JOIN pg_catalog.pg_operator AS o ON o.oid OPERATOR(pg_catalog.=) m.amopopr \
                     JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace \
               WHERE i.indrelid OPERATOR(pg_catalog.=) a.attrelid AND i.indisunique AND i.indisvalid AND i.indimmediate \
                 AND i.indpred IS NULL AND i.indexprs IS NULL AND k.number OPERATOR(pg_catalog.=) a.attnum \
               LIMIT 1), \
             EXISTS (SELECT FROM pg_catalog.pg_collation AS l \
                      WHERE l.oid OPERATOR(pg_catalog.=) a.attcollation AND l.collisdeterministic) \
        FROM pg_catalog.pg_attribute AS a \
       WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
       ORDER BY a.attnum",
    &[pg_sys::OIDOID],
);

/// A table that is open for writing until the end of the transaction, as it was at this number of changes.
pub struct Target {
    table: pg_sys::Oid,
    filenode: pg_sys::Oid,
    changes: u64,
    definition: Definition,
    mapping: Mapping,
    writer: Writer,
}

impl Target {
    /// Opens the table; what was known of it before is used if nothing has changed. `None` if there is no such table any more,
    /// or another role owns it. An ERROR if it cannot be written as it is.
    #[must_use]
    pub fn open(
        before: Option<Self>,
        table: pg_sys::Oid,
        definition: &Definition,
        role: pg_sys::Oid,
    ) -> Option<Self> {
        let open = OpenRelation::try_open(table, relation::WRITE)?;
        let changes = watch::changes_of(table);
        if let Some(before) = before.filter(|before| before.is_of(table, changes, definition)) {
            return Some(before);
        }
        if open.class().relowner != role {
            return None;
        }
        if open.class().relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT {
            unlogged(&name_of(table)).raise();
        }
        let columns = columns_of(table);
        let name = name_of(table);
        let find = |(column, source): &Sourced, is_key: bool| {
            let found = columns.iter().find(|of| of.name == *column).cloned();
            let found = found.unwrap_or_else(|| no_column(&name, column).raise());
            if is_key && found.equals.is_none() {
                no_key(&name, column).raise();
            }
            (found, source.clone())
        };
        let keys: Vec<_> = definition.keys.iter().map(|key| find(key, true)).collect();
        let others: Vec<_> = match &definition.columns {
            Some(named) => named.iter().map(|column| find(column, false)).collect(),
            None => by_name(&columns, &definition.keys),
        };
        let mapped = |columns: &[(TableColumn, Source)]| {
            let mapped = columns
                .iter()
                .map(|(column, source)| Column { source: source.clone(), takes_json: column.takes_json });
            mapped.collect()
        };
        let mapping = Mapping {
            format: definition.format,
            keys: mapped(&keys),
            columns: mapped(&others),
            has_one_partition: definition.has_one_partition,
        };
        let only =
            |columns: Vec<(TableColumn, Source)>| columns.into_iter().map(|(column, _)| column).collect();
        let writer = Writer::new(&name, only(keys), only(others));
        let filenode = open.class().relfilenode;
        Some(Self { table, filenode, changes, definition: definition.clone(), mapping, writer })
    }

    fn is_of(&self, table: pg_sys::Oid, changes: u64, definition: &Definition) -> bool {
        let parts = |of: &Definition| (of.format, of.keys.clone(), of.columns.clone(), of.has_one_partition);
        self.table == table && self.changes == changes && parts(&self.definition) == parts(definition)
    }

    /// How records become rows.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The table's quoted name.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(self.table)
    }

    /// The file that the table has.
    #[must_use]
    pub fn filenode(&self) -> pg_sys::Oid {
        self.filenode
    }

    /// Whether the table has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let _snapshot = Snapshot::take_latest();
        spi::connected(|| self.writer.has_no_rows())
    }

    /// Writes what is left of a batch. Within [`spi::connected`].
    pub fn apply(&self, reduced: &Reduced<'_>, way: Way) {
        self.writer.apply(reduced, way);
    }

    /// Gives another table of the same columns the rows of this one. Within [`spi::connected`].
    pub fn copy_to(&self, other: pg_sys::Oid) {
        self.writer.copy_to(&name_of(other));
    }
}

/// The columns that records fill by their names: all that can be written and are not in the key.
fn by_name(columns: &[TableColumn], keys: &[Sourced]) -> Vec<(TableColumn, Source)> {
    let others = columns
        .iter()
        .filter(|column| !column.is_generated && keys.iter().all(|(key, _)| *key != column.name));
    others.map(|column| (column.clone(), Source::Row(vec![Step::Member(column.name.clone())]))).collect()
}

fn columns_of(table: pg_sys::Oid) -> Vec<TableColumn> {
    // The transaction's snapshot may be older than the change that was waited for.
    let _snapshot = Snapshot::take_latest();
    spi::connected(|| {
        let rows = COLUMNS.execute(&[table.into_datum()], Access::Read, 0);
        let column = |row: spi::Row| {
            let of: pg_sys::Oid = row.get(2)?;
            let (type_name, takes_json, is_made_of_json) = describe_type(of);
            let is_text = of == pg_sys::TEXTOID || of == pg_sys::VARCHAROID;
            Some(TableColumn {
                name: row.get(1)?,
                type_name,
                takes_json,
                is_made_of_json,
                is_generated: row.get(3)?,
                is_exact: is_text && row.get(5)?,
                equals: row.get(4),
            })
        };
        rows.iter().filter_map(column).collect()
    })
}

/// The name of a type, or of the type that a domain is over, without a modifier: assignments apply that, and do not cut off
/// as a cast does. Whether it takes JSON as it is, and whether a value has to be made of JSON.
fn describe_type(of: pg_sys::Oid) -> (String, bool, bool) {
    // SAFETY: in a transaction; looks into the catalogs. The name is a C string in the current memory.
    unsafe {
        let base = pg_sys::getBaseType(of);
        let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY | pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN;
        let name = pg_sys::format_type_extended(base, -1, flags as pg_sys::bits16);
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let is_json = base == pg_sys::JSONOID || base == pg_sys::JSONBOID;
        let is_made_of_json = pg_sys::get_element_type(base) != pg_sys::InvalidOid
            || pg_sys::get_typtype(base) as u8 == pg_sys::TYPTYPE_COMPOSITE;
        (name, is_json || is_made_of_json, is_made_of_json)
    }
}

/// The name of a table with its schema, quoted.
#[must_use]
pub fn name_of(table: pg_sys::Oid) -> String {
    // SAFETY: in a transaction; looks into the catalogs. The results are C strings in the current memory, or null.
    unsafe {
        let name = pg_sys::get_rel_name(table);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table));
        if name.is_null() || schema.is_null() {
            return table.to_u32().to_string();
        }
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name)).to_string_lossy().into_owned()
    }
}

fn no_column(table: &str, column: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        message: format!("table {table} has no column \"{column}\" any more"),
        detail: "The projection fills this column.".into(),
        hint: "Give the column its name back, or end the projection and create it with other columns.".into(),
    }
}

fn no_key(table: &str, column: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
        message: format!("table {table} has no unique index on the key of the projection"),
        detail: format!(
            "No such index has the column \"{column}\". A restore creates it after the table has its rows."
        ),
        hint: "Create the primary key, or a unique index on exactly the columns of the key.".into(),
    }
}

fn unlogged(table: &str) -> UserError {
    UserError {
        code: PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
        message: format!("table {table} is unlogged"),
        detail: "A crash of the server would empty it, and the offsets would say that it is full.".into(),
        hint: format!("ALTER TABLE {table} SET LOGGED;"),
    }
}
