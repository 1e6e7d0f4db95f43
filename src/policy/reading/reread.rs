//! Says which rows must be read again after an event in flight has ended.

/// The rows that must be read again.
#[must_use = "the reader must be told"]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reread {
    /// No rows.
    #[default]
    Nothing,
    /// The rows that the topics in the backlog want.
    Turns,
    /// All rows from this id on.
    From(i64),
}

impl Reread {
    /// The rows of both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::From(a), Self::From(b)) => Self::From(a.min(b)),
            (Self::From(id), _) | (_, Self::From(id)) => Self::From(id),
            (Self::Nothing, Self::Nothing) => Self::Nothing,
            _ => Self::Turns,
        }
    }
}
