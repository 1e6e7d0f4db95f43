//! Functions that write the inbox's tables for users who may not: a role may subscribe only to the topics granted to it, and
//! change only its own subscriptions. See [`crate::pg::for_caller`].

use pgrx::prelude::*;

use crate::inbox::table::SUBSCRIPTION;
use crate::pg::for_caller::call_for_caller;
use crate::pg::function::{Arguments, sql_function};

sql_function!(inbox_for_caller, pg_finfo_inbox_for_caller, for_caller);

fn for_caller(arguments: &Arguments) -> Option<pg_sys::Datum> {
    call_for_caller(arguments, SUBSCRIPTION)
}
