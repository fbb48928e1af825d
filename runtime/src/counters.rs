//! What is counted: each counter is declared once, with its meaning, and reachable by name.
//!
//! [`counters!`](macro@crate::counters) makes from one table the struct, its sum over shards, and the list of
//! [`Sample`]s that logs and scrapers read. Where one thread writes what others read, it makes a struct of
//! [`Counter`]s as well.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a number behaves over time, and how the numbers of several shards become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Only grows; the sum of the shards.
    Counter,
    /// Goes up and down; the sum of the shards.
    Gauge,
    /// Goes up and down; the largest of the shards.
    Peak,
}

/// One number with its name and meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The field's name.
    pub name: &'static str,
    /// The field's documentation.
    pub help: &'static str,
    /// How it behaves.
    pub kind: SampleKind,
    /// What it is now.
    pub value: u64,
}

/// A number that one thread writes and any thread reads, so that adding needs no atomic read-modify-write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; to be called by one thread only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Replaces the number; to be called by one thread only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares what is counted.
///
/// ```
/// lars_runtime::counters! {
///     /// What a tea shop counts.
///     pub struct TeaStats, atomic TeaCounters {
///         /// Cups sold.
///         counter cups: u64,
///         /// Guests now.
///         gauge guests: u64,
///     }
/// }
///
/// let shard = TeaCounters::default();
/// shard.cups.add(2);
/// shard.guests.set(1);
/// let sum = shard.load() + TeaStats { cups: 3, guests: 4 };
/// assert_eq!(sum, TeaStats { cups: 5, guests: 5 });
/// assert_eq!(sum.samples().map(|s| (s.name, s.help, s.value)), [("cups", "Cups sold.", 5), ("guests", "Guests now.", 5)]);
/// ```
///
/// Kinds are `counter`, `gauge` and `peak` ([`SampleKind`]); numbers are `u64`. `, atomic Name` is left out where no
/// other thread reads while one writes. The struct is `Copy`, adds up with `+` and `Sum`, and lists itself with
/// `samples()`.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident, atomic $atomic:ident {
            $($(#[doc = $help:literal])+ $kind:ident $field:ident: u64,)+
        }
    ) => {
        $crate::counters! {
            $(#[$meta])*
            $vis struct $name {
                $($(#[doc = $help])+ $kind $field: u64,)+
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] while it is being counted: one thread writes, any thread reads.")]
        #[derive(Debug, Default)]
        #[allow(unreachable_pub, reason = "who counts may be private where the numbers are public")]
        $vis struct $atomic {
            $($(#[doc = $help])+ pub $field: $crate::Counter,)+
        }

        impl $atomic {
            /// The numbers now.
            #[must_use]
            #[allow(unreachable_pub, reason = "as above")]
            $vis fn load(&self) -> $name {
                $name { $($field: self.$field.get()),+ }
            }
        }
    };
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[doc = $help:literal])+ $kind:ident $field:ident: u64,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name {
            $($(#[doc = $help])+ pub $field: u64,)+
        }

        impl $name {
            /// Every number with its name and meaning, in the order of their declaration.
            #[must_use]
            #[allow(dead_code, reason = "not every table is listed by itself")]
            $vis fn samples(&self) -> [$crate::Sample; [$(stringify!($field)),+].len()] {
                [$($crate::Sample {
                    name: stringify!($field),
                    help: concat!($($help),+).trim_ascii_start(),
                    kind: $crate::counters!(@kind $kind),
                    value: self.$field,
                }),+]
            }
        }

        impl ::std::ops::Add for $name {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($field: $crate::counters!(@add $kind, self.$field, other.$field)),+ }
            }
        }

        impl ::std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
                all.fold(Self::default(), ::std::ops::Add::add)
            }
        }
    };
    (@kind counter) => { $crate::SampleKind::Counter };
    (@kind gauge) => { $crate::SampleKind::Gauge };
    (@kind peak) => { $crate::SampleKind::Peak };
    (@add peak, $a:expr, $b:expr) => { ::std::cmp::Ord::max($a, $b) };
    (@add $kind:ident, $a:expr, $b:expr) => { $a + $b };
}
