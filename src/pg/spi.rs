//! Owns prepared statements, executed through SPI.
//!
//! Runs in: any process with a database.
//!
//! A process parses and plans each statement once. Errors are Postgres' own, and unwind.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::prelude::*;

use super::varlena;

/// The text of a [`Statement`] that is put together from literals.
macro_rules! text {
    ($($part:expr),* $(,)?) => {
        match std::ffi::CStr::from_bytes_with_nul(concat!($($part),*, "\0").as_bytes()) {
            Ok(text) => text,
            Err(_) => panic!("a zero byte in a statement"),
        }
    };
}
pub(crate) use text;

/// A statement with its parameter types, prepared at first use.
pub struct Statement {
    text: &'static CStr,
    types: &'static [pg_sys::Oid],
    is_ordered: bool,
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

/// Whether a statement sees the active snapshot, or takes one of its own and may write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads by the active snapshot.
    Read,
    /// Takes a new snapshot.
    Write,
}

impl Statement {
    /// A statement with the types of `$1`, `$2`, … It must qualify every name with its schema.
    pub const fn new(text: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self { text, types, is_ordered: false, plan: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// The same for a statement that reads rows by the order of an index: see [`OrderedScans`].
    pub const fn ordered(text: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self { text, types, is_ordered: true, plan: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Executes the statement and returns its rows, within [`connected`]. A `limit` of 0 means all.
    pub fn execute(&self, arguments: &[Option<pg_sys::Datum>], access: Access, limit: usize) -> Rows {
        debug_assert_eq!(arguments.len(), self.types.len());
        let _plans = self.is_ordered.then(OrderedScans::only);
        let plan = self.plan();
        let mut values: Vec<pg_sys::Datum> =
            arguments.iter().map(|argument| argument.unwrap_or(pg_sys::Datum::from(0_usize))).collect();
        let nulls: Vec<c_char> =
            arguments.iter().map(|argument| if argument.is_some() { b' ' } else { b'n' } as c_char).collect();
        // SAFETY: the plan is saved; values and nulls have one entry per parameter and outlive the call.
        unsafe {
            let code = pg_sys::SPI_execute_plan(
                plan,
                values.as_mut_ptr(),
                nulls.as_ptr(),
                access == Access::Read,
                c_long::try_from(limit).unwrap_or(c_long::MAX),
            );
            if code < 0 {
                error!("could not execute \"{}\": SPI error {code}", self.text.to_string_lossy());
            }
            let count = usize::try_from(pg_sys::SPI_processed).unwrap_or(usize::MAX);
            Rows { table: pg_sys::SPI_tuptable, count }
        }
    }

    fn plan(&self) -> *mut pg_sys::_SPI_plan {
        let kept = self.plan.load(Ordering::Relaxed);
        if !kept.is_null() {
            return kept;
        }
        // SAFETY: the text is a C string, and the array has this length. A saved plan lives as long as the
        // process, and Postgres replans it after changes of the objects that it refers to.
        unsafe {
            let plan = pg_sys::SPI_prepare(
                self.text.as_ptr(),
                c_int::try_from(self.types.len()).unwrap_or(c_int::MAX),
                self.types.as_ptr().cast_mut(),
            );
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                error!("could not prepare \"{}\"", self.text.to_string_lossy());
            }
            self.plan.store(plan, Ordering::Relaxed);
            plan
        }
    }
}

/// Runs `work` with a connection to SPI, which frees Postgres' memory that `work` allocates.
pub fn connected<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: connect and finish are paired; the end of the transaction cleans up after an ERROR between
    // them.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as c_int {
            error!("could not connect to SPI");
        }
        let result = work();
        pg_sys::SPI_finish();
        result
    }
}

/// The same for work that may return an ERROR that was caught ([`catching`](super::refusal::catching)): the end of the
/// (sub)transaction then cleans up.
pub fn try_connected<R, E>(work: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    // SAFETY: as above.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as c_int {
            error!("could not connect to SPI");
        }
        let result = work();
        // Otherwise code that failed may have left connections of its own.
        if result.is_ok() {
            pg_sys::SPI_finish();
        }
        result
    }
}

/// Runs commands that are put together at run time, within [`connected`].
pub fn run(commands: &CStr) {
    // SAFETY: a C string.
    let code = unsafe { pg_sys::SPI_execute(commands.as_ptr(), false, 0) };
    if code < 0 {
        error!("could not execute \"{}\": SPI error {code}", commands.to_string_lossy());
    }
}

/// Runs a query that is put together at run time, and returns its rows, within [`connected`].
pub fn query(text: &CStr, access: Access) -> Rows {
    // SAFETY: a C string; SPI keeps the rows until the connection ends.
    let code = unsafe { pg_sys::SPI_execute(text.as_ptr(), access == Access::Read, 0) };
    if code < 0 {
        error!("could not execute \"{}\": SPI error {code}", text.to_string_lossy());
    }
    Rows::of_last_call()
}

/// Commits the transaction, in a procedure that may do so, and begins the next one.
pub fn commit() {
    // SAFETY: connect and finish are paired; Postgres raises an ERROR if the transaction cannot be committed here.
    unsafe {
        if pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int) != pg_sys::SPI_OK_CONNECT as c_int {
            error!("could not connect to SPI");
        }
        pg_sys::SPI_commit();
        pg_sys::SPI_finish();
    }
}

/// The planner's settings while rows are read by the order of an index.
const PLANNING: [(&CStr, &CStr); 5] = [
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_sort", c"off"),
    // Otherwise each call may be planned again, which takes longer than the call.
    (c"plan_cache_mode", c"force_generic_plan"),
    // A plan that has to do what is off counts as so expensive that it would be compiled.
    (c"jit", c"off"),
];

/// While it lives, rows are read by the order of an index. For statements with ORDER BY and LIMIT over tables without
/// statistics, of which a plan is kept that may have been made when they were small.
pub struct OrderedScans(c_int);

impl OrderedScans {
    /// Sets the planner's settings.
    #[must_use]
    pub fn only() -> Self {
        // SAFETY: the settings exist, and are restored when this is dropped, or after an ERROR, when the (sub)transaction
        // ends.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (setting, value) in PLANNING {
                pg_sys::set_config_option(
                    setting.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Self(level)
        }
    }
}

impl Drop for OrderedScans {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pairs with `only`.
            unsafe { pg_sys::AtEOXact_GUC(false, self.0) }
        }
    }
}

/// Copies of rows of one execution, which live until the transaction ends.
#[must_use]
pub fn kept_for_transaction(rows: &[Row]) -> Vec<Row> {
    let Some(first) = rows.first() else { return Vec::new() };
    // SAFETY: the rows are alive; the copies, and that of their descriptor, are made in memory of the transaction.
    unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let descriptor = pg_sys::CreateTupleDescCopy(first.descriptor);
        let kept = rows.iter().map(|row| Row { tuple: pg_sys::heap_copytuple(row.tuple), descriptor });
        let kept = kept.collect();
        pg_sys::MemoryContextSwitchTo(before);
        kept
    }
}

/// The rows of one execution, valid until the connection ends.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

impl Rows {
    /// Those of the call that was made last, within [`connected`].
    #[must_use]
    pub fn of_last_call() -> Self {
        // SAFETY: plain globals of this process.
        let (table, count) = unsafe { (pg_sys::SPI_tuptable, pg_sys::SPI_processed) };
        Self { table, count: usize::try_from(count).unwrap_or(usize::MAX) }
    }

    /// Frees them before the connection ends.
    pub fn free(self) {
        // SAFETY: the rows of a call of this connection, which nothing uses any more.
        unsafe { pg_sys::SPI_freetuptable(self.table) }
    }

    /// The number of rows returned, or changed by a statement without RETURNING.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What the rows look like; null if the statement returns none.
    #[must_use]
    pub fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: the table lives as long as the connection.
        unsafe { self.table.as_ref() }.map_or(std::ptr::null_mut(), |table| table.tupdesc)
    }

    /// Row `at`, counted from 0.
    #[must_use]
    pub fn row(&self, at: usize) -> Row {
        assert!(at < self.count && !self.table.is_null(), "no such row");
        // SAFETY: the table holds `count` tuples.
        unsafe { Row { tuple: *(*self.table).vals.add(at), descriptor: (*self.table).tupdesc } }
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        (0..self.count).map(|at| self.row(at))
    }
}

/// One row, valid as long as its [`Rows`] or the trigger call that it comes from.
#[derive(Clone, Copy)]
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// A row of the table on which a trigger fires.
    #[must_use]
    pub fn of_trigger(firing: &pg_sys::TriggerData, tuple: pg_sys::HeapTuple) -> Self {
        // SAFETY: the relation of a firing trigger is open.
        Self { tuple, descriptor: unsafe { (*firing.tg_relation).rd_att } }
    }

    /// The row itself.
    #[must_use]
    pub fn tuple(&self) -> pg_sys::HeapTuple {
        self.tuple
    }

    /// The value of the column with this name.
    #[must_use]
    pub fn named<T: FromDatum>(&self, name: &CStr) -> Option<T> {
        self.get(self.number(name))
    }

    /// The number of bytes of the column with this name, of type text, bytea or json. The value is not
    /// detoasted.
    #[must_use]
    pub fn length(&self, name: &CStr) -> Option<usize> {
        let value = self.value(name)?;
        // SAFETY: the caller names a column of such a type; the row is alive.
        Some(unsafe { varlena::length(value) })
    }

    /// The stored value of the column with this name.
    #[must_use]
    pub fn value(&self, name: &CStr) -> Option<pg_sys::Datum> {
        self.datum(self.number(name))
    }

    /// The text of the column with this name, of type text, json or jsonb. It lives as long as the row and
    /// the memory context.
    #[must_use]
    pub fn text(&self, name: &CStr) -> Option<&str> {
        let number = self.number(name);
        let value = self.datum(number)?;
        // SAFETY: the caller names a column of such a type; the row is alive.
        unsafe {
            let is_jsonb = pg_sys::SPI_gettypeid(self.descriptor, number) == pg_sys::JSONBOID;
            Some(varlena::text(if is_jsonb { varlena::json_of(value) } else { value }))
        }
    }

    /// A copy of the row in which these columns have new values.
    #[must_use]
    pub fn with<const N: usize>(&self, columns: &[(&CStr, Option<pg_sys::Datum>); N]) -> pg_sys::HeapTuple {
        let mut numbers = columns.map(|(name, _)| self.number(name));
        let mut values = columns.map(|(_, value)| value.unwrap_or(pg_sys::Datum::from(0_usize)));
        let mut nulls = columns.map(|(_, value)| value.is_none());
        // SAFETY: tuple and descriptor belong together; the arrays have N entries of the columns' types.
        unsafe {
            pg_sys::heap_modify_tuple_by_cols(
                self.tuple,
                self.descriptor,
                N as c_int,
                numbers.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    }

    fn number(&self, name: &CStr) -> c_int {
        // SAFETY: the descriptor is alive and the name a C string.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor, name.as_ptr()) };
        if number <= 0 {
            error!("there is no column {}", name.to_string_lossy());
        }
        number
    }

    /// The value of a column, counted from 1; `None` for NULL.
    #[must_use]
    pub fn datum(&self, column: c_int) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: tuple and descriptor belong together and are alive.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// The whole row as one composite value, which outlives the connection, for functions with several
    /// results.
    #[must_use]
    pub fn into_composite(self) -> Option<pg_sys::Datum> {
        // SAFETY: tuple and descriptor belong together; the copy is made in the memory context outside of
        // SPI.
        let tuple = unsafe { pg_sys::SPI_returntuple(self.tuple, self.descriptor) };
        (!tuple.is_null()).then(|| pg_sys::Datum::from(tuple))
    }

    /// The value of a column as a Rust value.
    #[must_use]
    pub fn get<T: FromDatum>(&self, column: c_int) -> Option<T> {
        // SAFETY: the caller names the column's own type.
        self.datum(column).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }
}
