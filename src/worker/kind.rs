//! Owns the kinds of workers, and the notices that are sent to them.
//!
//! Runs in: any process.

use crate::pg::backend;
use pgrx::prelude::*;

/// The kinds that there can be, at most.
pub const MAX_KINDS: usize = 4;

/// The kind of a worker; each capability that has a worker chooses a number of its own, below [`MAX_KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(u32);

impl Kind {
    /// The kind of this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        assert!((number as usize) < MAX_KINDS, "each kind needs a place in the arrays by kind");
        Self(number)
    }

    /// Its place in an array by kind.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Identifies a worker: each database has at most one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerKey {
    /// The database.
    pub database: pg_sys::Oid,
    /// The kind.
    pub kind: Kind,
}

impl WorkerKey {
    /// The worker of this kind in the database of this process.
    #[must_use]
    pub fn here(kind: Kind) -> Self {
        Self { database: backend::database(), kind }
    }

    /// As a number other than 0.
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.kind.0) << 32 | u64::from(self.database.to_u32())
    }

    /// From such a number; `None` for 0.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0)
            .then(|| Self { database: pg_sys::Oid::from(bits as u32), kind: Kind((bits >> 32) as u32) })
    }
}

/// A notice to a worker: a bit that stays set until the worker takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice(u32);

impl Notice {
    /// No notice.
    pub const NONE: Self = Self(0);

    /// A notice of this number, below 32; each kind has numbers of its own.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(1 << number)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }
}
