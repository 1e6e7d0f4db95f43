//! Owns enums in shared memory.
//!
//! Runs in: any process.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

/// An enum whose variants are numbered from 0. Declare it with the macro `numbered`.
pub trait Numbered: Copy + 'static {
    /// All variants, each at its number. Shared memory holds the first when the server starts.
    const ALL: &'static [Self];

    /// The variant's number.
    fn number(self) -> u32;
}

/// Declares an enum that can be kept in shared memory.
macro_rules! numbered {
    ($(#[$attribute:meta])* $vis:vis enum $name:ident { $($(#[$of_variant:meta])* $variant:ident,)+ }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        $vis enum $name { $($(#[$of_variant])* $variant,)+ }

        impl $crate::pg::atomic_enum::Numbered for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn number(self) -> u32 {
                self as u32
            }
        }
    };
}
pub(crate) use numbered;

/// A value of such an enum, read and written by several processes.
pub struct AtomicEnum<T>(AtomicU32, PhantomData<T>);

impl<T: Numbered> Default for AtomicEnum<T> {
    fn default() -> Self {
        Self(AtomicU32::new(0), PhantomData)
    }
}

impl<T: Numbered> AtomicEnum<T> {
    /// The value.
    #[must_use]
    pub fn load(&self) -> T {
        // Only numbers of variants are stored.
        T::ALL[self.0.load(Ordering::Acquire) as usize]
    }

    /// Changes the value.
    pub fn store(&self, value: T) {
        self.0.store(value.number(), Ordering::Release);
    }

    /// Changes the value. Returns whether it was another one before.
    pub fn replace(&self, value: T) -> bool {
        self.0.swap(value.number(), Ordering::AcqRel) != value.number()
    }

    /// Changes the value if it is `from`. Returns whether it was.
    pub fn advance(&self, from: T, to: T) -> bool {
        let exchanged =
            self.0.compare_exchange(from.number(), to.number(), Ordering::AcqRel, Ordering::Acquire);
        exchanged.is_ok()
    }
}
