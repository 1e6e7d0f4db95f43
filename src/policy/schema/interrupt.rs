//! Lets work that can take long be interrupted: it asks now and then, and whoever is asked may end it by unwinding.

use std::cell::Cell;

thread_local! {
    static CHECK: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// How many steps there are between two questions: a power of two.
const STEPS: u64 = 1 << 14;

/// Has the work of this thread ask `check` from now on.
pub fn ask(check: fn()) {
    CHECK.set(Some(check));
}

/// Asks whether to go on, if enough steps were taken since the last time: `cost` of those that are left.
pub fn after(left: u64, cost: u64) {
    if left / STEPS != left.saturating_sub(cost) / STEPS
        && let Some(check) = CHECK.get()
    {
        check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static ASKED: Cell<u32> = const { Cell::new(0) };
    }

    #[test]
    fn work_asks_now_and_then_and_can_be_ended() {
        ask(|| ASKED.set(ASKED.get() + 1));
        (0..STEPS * 4).rev().for_each(|left| after(left + 1, 1));
        assert_eq!(ASKED.get(), 4);
        after(STEPS * 100, STEPS * 3);
        assert_eq!(ASKED.get(), 5);
        ask(|| std::panic::resume_unwind(Box::new("the end")));
        let tree = r##"{"anyOf": [{"properties": {"a": {"$ref": "#"}}, "required": ["x"]},
                                  {"properties": {"a": {"$ref": "#"}}, "required": ["y"]}]}"##;
        let schema = crate::schema::compiled::Compiled::compile(crate::schema::compiled::Format::Json, tree);
        let deep = format!("{}1{}", "{\"a\":".repeat(40), "}".repeat(40));
        let check = || {
            let mut bytes = Vec::new();
            schema.unwrap().encode(crate::schema::compiled::Message::First, &deep, &mut bytes, 1000)
        };
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        assert_eq!(ended.unwrap_err().downcast_ref(), Some(&"the end"));
    }
}
