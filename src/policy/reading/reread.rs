//! What an event in flight that ends has the table be read for again.

/// What is to be read again, by whom the table is read.
#[must_use = "the reader is to be told"]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reread {
    /// Nothing.
    #[default]
    Nothing,
    /// What the topics that are behind want.
    Turns,
    /// All from the row with this id on.
    From(i64),
}

impl Reread {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::From(a), Self::From(b)) => Self::From(a.min(b)),
            (Self::From(id), _) | (_, Self::From(id)) => Self::From(id),
            (Self::Nothing, Self::Nothing) => Self::Nothing,
            _ => Self::Turns,
        }
    }
}
