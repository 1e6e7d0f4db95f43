//! Owns SQL functions: their export, their arguments, and the random values that they return.
//!
//! Runs in: client backends; the random values also in workers.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use pgrx::prelude::*;

use super::{compat, varlena};

/// Exports `$inner`, a function of [`Arguments`], to SQL under the C name `$symbol`; `$finfo` is that name
/// after `pg_finfo_`.
///
/// pgrx does not declare these functions: the SQL declarations are in `sql/`, beside their comments and
/// grants.
macro_rules! sql_function {
    ($symbol:ident, $finfo:ident, $inner:path) => {
        #[doc = concat!("The call convention of `", stringify!($symbol), "` in `sql/`.")]
        ///
        /// # Safety
        /// Only Postgres' function manager may call it.
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $symbol(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            // SAFETY: Postgres passes a valid call, whose arguments have the types declared in sql/.
            unsafe { $crate::pg::function::call(fcinfo, $inner) }
        }

        #[doc = concat!("Says that `", stringify!($symbol), "` follows version 1 of the call convention.")]
        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }
    };
}
pub(crate) use sql_function;

/// Calls `inner`, and returns its value, or NULL, to Postgres.
///
/// # Safety
/// `fcinfo` is a call of a function whose declared argument types are those that `inner` reads.
pub unsafe fn call(
    fcinfo: pg_sys::FunctionCallInfo,
    inner: fn(&Arguments) -> Option<pg_sys::Datum>,
) -> pg_sys::Datum {
    let result = inner(&Arguments(fcinfo));
    // SAFETY: the call is alive until this function returns.
    unsafe { (*fcinfo).isnull = result.is_none() };
    result.unwrap_or_else(|| pg_sys::Datum::from(0_usize))
}

/// The arguments of a call, by position from 0; NULL is `None`.
pub struct Arguments(pg_sys::FunctionCallInfo);

impl Arguments {
    /// Those of a call.
    ///
    /// # Safety
    /// The call is alive as long as these.
    #[must_use]
    pub unsafe fn of_call(call: pg_sys::FunctionCallInfo) -> Self {
        Self(call)
    }

    /// An argument of any type.
    #[must_use]
    pub fn datum(&self, at: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the call has as many arguments as sql/ declares.
        unsafe {
            (!pgrx::fcinfo::pg_arg_is_null(self.0, at)).then(|| pgrx::fcinfo::pg_getarg_datum_raw(self.0, at))
        }
    }

    /// A `text` argument.
    #[must_use]
    pub fn text(&self, at: usize) -> Option<&str> {
        self.get(at)
    }

    /// A `bytea` argument.
    #[must_use]
    pub fn bytes(&self, at: usize) -> Option<&[u8]> {
        self.get(at)
    }

    /// An `integer` argument.
    #[must_use]
    pub fn integer(&self, at: usize) -> Option<i32> {
        self.get(at)
    }

    /// A `bigint` argument.
    #[must_use]
    pub fn bigint(&self, at: usize) -> Option<i64> {
        self.get(at)
    }

    /// A `uuid` argument.
    #[must_use]
    pub fn uuid(&self, at: usize) -> Option<pgrx::Uuid> {
        self.get(at)
    }

    /// An `interval` argument.
    #[must_use]
    pub fn interval(&self, at: usize) -> Option<pgrx::datum::Interval> {
        self.get(at)
    }

    /// The text of a `json` argument.
    #[must_use]
    pub fn json(&self, at: usize) -> Option<&str> {
        // SAFETY: the argument is declared json; a detoasted copy lives as long as the call.
        self.datum(at).map(|value| unsafe { varlena::text(value) })
    }

    /// A `boolean` argument.
    #[must_use]
    pub fn boolean(&self, at: usize) -> Option<bool> {
        self.get(at)
    }

    /// An argument that is a list of texts.
    #[must_use]
    pub fn texts(&self, at: usize) -> Option<Vec<Option<String>>> {
        self.get(at)
    }

    /// An `oid` argument.
    #[must_use]
    pub fn oid(&self, at: usize) -> Option<pg_sys::Oid> {
        self.get(at)
    }

    /// The number of arguments.
    #[must_use]
    pub fn count(&self) -> usize {
        // SAFETY: the call is alive.
        usize::try_from(unsafe { (*self.0).nargs }).unwrap_or(0)
    }

    /// Whether this is a call of a procedure that may commit.
    #[must_use]
    pub fn may_commit(&self) -> bool {
        // SAFETY: the call is alive; its context is null or a node, of which CALL makes one of this type.
        unsafe {
            let context = (*self.0).context;
            !context.is_null()
                && (*context).type_ == pg_sys::NodeTag::T_CallContext
                && !(*context.cast::<pg_sys::CallContext>()).atomic
        }
    }

    /// A record of the call's output parameters, with values of their types.
    #[must_use]
    pub fn record<const N: usize>(&self, row: [Option<pg_sys::Datum>; N]) -> Option<pg_sys::Datum> {
        let mut descriptor = std::ptr::null_mut();
        let mut values = row.map(|value| value.unwrap_or(pg_sys::Datum::from(0_usize)));
        let mut nulls = row.map(|value| value.is_none());
        // SAFETY: the call is alive; sql/ declares as many output parameters.
        unsafe {
            let kind = pg_sys::get_call_result_type(self.0, std::ptr::null_mut(), &mut descriptor);
            if kind != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE {
                error!("the function is called where no record can be");
            }
            let descriptor = pg_sys::BlessTupleDesc(descriptor);
            let tuple = pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data))
        }
    }

    fn get<T: FromDatum>(&self, at: usize) -> Option<T> {
        // SAFETY: the argument's declared type is T's; a borrowed value lives as long as the call.
        self.datum(at).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// The function that is called.
    #[must_use]
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: the call is alive.
        unsafe { (*(*self.0).flinfo).fn_oid }
    }

    /// Calls another function with the same arguments behind one more, in the same collation. The right to
    /// call it is not checked.
    ///
    /// # Safety
    /// The other function takes a value of the type of `first`, and then what this one takes; it gives what this one gives.
    pub unsafe fn call_with(&self, function: pg_sys::Oid, first: pg_sys::Datum) -> Option<pg_sys::Datum> {
        let count = self.count() + 1;
        let bytes = std::mem::size_of::<pg_sys::FunctionCallInfoBaseData>()
            + count * std::mem::size_of::<pg_sys::NullableDatum>();
        // SAFETY: the memory has room for the call and its arguments, and lives until the end of this call;
        // `fmgr_info` fills `info`. An ERROR of the function unwinds as any other.
        unsafe {
            let mut info = pg_sys::FmgrInfo::default();
            pg_sys::fmgr_info(function, &mut info);
            let call: pg_sys::FunctionCallInfo = pg_sys::palloc0(bytes).cast();
            (*call).flinfo = &mut info;
            (*call).fncollation = (*self.0).fncollation;
            // Where a function puts the rows that it returns.
            (*call).resultinfo = (*self.0).resultinfo;
            (*call).nargs = i16::try_from(count).unwrap_or(i16::MAX);
            let values = (*call).args.as_mut_ptr();
            values.write(pg_sys::NullableDatum { value: first, isnull: false });
            std::ptr::copy_nonoverlapping((*self.0).args.as_ptr(), values.add(1), self.count());
            let entry = info.fn_addr?;
            let value = compat::guarded(|| entry(call));
            (!(*call).isnull).then_some(value)
        }
    }

    /// The call itself, which knows its context.
    #[must_use]
    pub fn call(&self) -> pg_sys::FunctionCallInfo {
        self.0
    }
}

/// The number of random bytes in a UUID.
const RANDOM: usize = 10;

/// How many UUIDs one request of random bytes serves: a request for fewer costs nearly as much.
const AHEAD: usize = 32;

/// Random bytes fetched ahead, and how many of them are used. Each backend has its own: it is forked from the
/// postmaster, which creates no UUID.
struct Pool {
    bytes: [u8; AHEAD * RANDOM],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; AHEAD * RANDOM], used: AHEAD * RANDOM }) };
}

/// Random bytes from Postgres' own source. None is returned twice.
fn random_bytes() -> [u8; RANDOM] {
    POOL.with_borrow_mut(|pool| {
        if pool.used == pool.bytes.len() {
            // SAFETY: writes as many bytes as the array has.
            if !unsafe { pg_sys::pg_strong_random(pool.bytes.as_mut_ptr().cast(), pool.bytes.len()) } {
                ereport!(ERROR, PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not generate random values");
            }
            pool.used = 0;
        }
        let mut random = [0; RANDOM];
        random.copy_from_slice(&pool.bytes[pool.used..][..RANDOM]);
        pool.used += RANDOM;
        random
    })
}

/// A new UUID version 7.
pub fn new_uuid() -> pgrx::Uuid {
    let random = random_bytes();
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    pgrx::Uuid::from_bytes(*uuid::Builder::from_unix_timestamp_millis(millis, &random).as_uuid().as_bytes())
}

/// A random number from 0 to 1.
pub fn random() -> f64 {
    let mut bytes = [0_u8; 4];
    // SAFETY: writes as many bytes as the array has. If the source fails, the number is 0, which is
    // as good as any for spreading retries.
    unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
