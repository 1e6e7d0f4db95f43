//! Owns the rule which events a change of a row makes.

use super::definition::{Operation, Style};

/// What an event says has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A row is new.
    Created,
    /// A row has other values, and the event has all of them.
    Replaced,
    /// A row has other values.
    Patched,
    /// A row is gone.
    Deleted,
    /// All rows are gone.
    Truncated,
    /// A row as it is, which was there before the capture.
    Snapshot,
}

impl Action {
    /// All of them, in the order of [`Action::place`].
    pub const ALL: [Self; 6] =
        [Self::Created, Self::Replaced, Self::Patched, Self::Deleted, Self::Truncated, Self::Snapshot];

    /// Its word in event types.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replaced => "replaced",
            Self::Patched => "patched",
            Self::Deleted => "deleted",
            Self::Truncated => "truncated",
            Self::Snapshot => "snapshot",
        }
    }

    /// Its place in [`Action::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        self as usize
    }

    /// Whether the event tells of the row as it was, and not as it is.
    #[must_use]
    pub const fn is_of_old_row(self) -> bool {
        matches!(self, Self::Deleted)
    }
}

/// What an UPDATE did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// No captured column differs.
    Nothing,
    /// The row has the same key and other values.
    Values,
    /// The row has another key.
    Key,
}

/// The events of a changed row, in their order. A row with another key is another row for consumers, which order, join and
/// compact by the key: the old one is deleted, and the new one created.
#[must_use]
pub fn actions(operation: Operation, update: Update, style: Style) -> [Option<Action>; 2] {
    let only = |action| [Some(action), None];
    match (operation, update) {
        (Operation::Insert, _) => only(Action::Created),
        (Operation::Delete, _) => only(Action::Deleted),
        (Operation::Truncate, _) => only(Action::Truncated),
        (Operation::Update, Update::Nothing) => [None, None],
        (Operation::Update, Update::Key) => [Some(Action::Deleted), Some(Action::Created)],
        (Operation::Update, Update::Values) if matches!(style, Style::Fat) => only(Action::Replaced),
        (Operation::Update, Update::Values) => only(Action::Patched),
    }
}

/// What the events of such changes may say has happened, each once.
#[must_use]
pub fn possible(operations: &[Operation], style: Style) -> Vec<Action> {
    let updates = [Update::Nothing, Update::Values, Update::Key];
    let all: Vec<_> = operations
        .iter()
        .flat_map(|operation| updates.map(|update| actions(*operation, update, style)))
        .flatten()
        .flatten()
        .collect();
    Action::ALL.into_iter().filter(|action| all.contains(action)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn places_are_those_of_the_list() {
        for (at, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action.place(), at);
        }
    }

    #[test]
    fn what_can_happen_depends_on_the_operations_and_the_style() {
        use Action::{Created, Deleted, Patched, Replaced, Truncated};
        use Operation::{Delete, Insert, Truncate, Update};
        let all = [Insert, Update, Delete, Truncate];
        assert_eq!(possible(&all, Style::Fat), [Created, Replaced, Deleted, Truncated]);
        assert_eq!(possible(&all, Style::Delta), [Created, Patched, Deleted, Truncated]);
        // A row may get another key.
        assert_eq!(possible(&[Update], Style::Notification), [Created, Patched, Deleted]);
        assert_eq!(possible(&[Truncate, Insert], Style::Fat), [Created, Truncated]);
    }

    type Rows = BTreeMap<u8, u8>;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert(u8, u8),
        Update { key: u8, to: u8, value: u8 },
        Delete(u8),
        Truncate,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u8, 0..3_u8).prop_map(|(key, value)| Step::Insert(key, value)),
            6 => (0..6_u8, 0..6_u8, 0..3_u8).prop_map(|(key, to, value)| Step::Update { key, to, value }),
            2 => (0..6_u8).prop_map(Step::Delete),
            1 => Just(Step::Truncate),
        ]
    }

    /// A row: its key and its value.
    type Pair = Option<(u8, u8)>;

    /// Applies a step to the table, as a database would. Gives the operation with the row before and after.
    fn apply(rows: &mut Rows, step: Step) -> Option<(Operation, Pair, Pair)> {
        match step {
            Step::Insert(key, value) => {
                (rows.insert(key, value).is_none()).then_some((Operation::Insert, None, Some((key, value))))
            }
            Step::Update { key, to, value } => {
                let old = *rows.get(&key)?;
                if key != to && rows.contains_key(&to) {
                    return None;
                }
                rows.remove(&key);
                rows.insert(to, value);
                Some((Operation::Update, Some((key, old)), Some((to, value))))
            }
            Step::Delete(key) => rows.remove(&key).map(|old| (Operation::Delete, Some((key, old)), None)),
            Step::Truncate => {
                rows.clear();
                Some((Operation::Truncate, None, None))
            }
        }
    }

    /// A consumer that keeps a copy by key.
    fn consume(copy: &mut Rows, action: Action, old: Option<(u8, u8)>, new: Option<(u8, u8)>) {
        if action == Action::Truncated {
            copy.clear();
        } else if action.is_of_old_row() {
            copy.remove(&old.unwrap().0);
        } else {
            let (key, value) = new.unwrap();
            copy.insert(key, value);
        }
    }

    /// Whether the copy of a consumer equals the table after these steps.
    fn keeps_up(
        steps: &[Step],
        of: fn(Operation, Update, Style) -> [Option<Action>; 2],
        style: Style,
    ) -> bool {
        let (mut rows, mut copy) = (Rows::new(), Rows::new());
        for step in steps {
            // A row in place of an existing one is a conflict, and changes nothing.
            if matches!(step, Step::Insert(key, _) if rows.contains_key(key)) {
                continue;
            }
            let Some((operation, old, new)) = apply(&mut rows, *step) else { continue };
            let update = match (old, new) {
                (Some(old), Some(new)) if old.0 != new.0 => Update::Key,
                (Some(old), Some(new)) if old == new => Update::Nothing,
                _ => Update::Values,
            };
            for action in of(operation, update, style).into_iter().flatten() {
                consume(&mut copy, action, old, new);
            }
        }
        rows == copy
    }

    proptest! {
        #[test]
        fn a_copy_by_key_equals_the_table(steps in prop::collection::vec(step(), 0..60), style in 0..3_usize) {
            prop_assert!(keeps_up(&steps, actions, Style::ALL[style]));
        }

        #[test]
        fn an_update_that_changes_nothing_is_no_event(style in 0..3_usize) {
            prop_assert_eq!(actions(Operation::Update, Update::Nothing, Style::ALL[style]), [None, None]);
        }
    }

    /// The wrong rules that the property above is for.
    #[test]
    fn wrong_rules_are_caught() {
        fn key_as_values(operation: Operation, update: Update, style: Style) -> [Option<Action>; 2] {
            let update = if matches!(update, Update::Key) { Update::Values } else { update };
            actions(operation, update, style)
        }
        fn created_first(operation: Operation, update: Update, style: Style) -> [Option<Action>; 2] {
            match actions(operation, update, style) {
                [Some(Action::Deleted), None] => [None, None],
                [first, second] => [second, first],
            }
        }
        let steps = [Step::Insert(1, 1), Step::Update { key: 1, to: 2, value: 1 }, Step::Delete(2)];
        assert!(keeps_up(&steps, actions, Style::Fat));
        assert!(!keeps_up(&steps, key_as_values, Style::Fat));
        assert!(!keeps_up(&steps, created_first, Style::Fat));
    }
}
