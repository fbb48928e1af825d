//! [`ModuleId`]: the name of a remote service.

use std::fmt;

use crate::messages;

/// The name of a remote service: `modid` is the product or team, `cmdid` the service in it.
///
/// Any pair of 32-bit numbers is a legal name, negative ones included. SQL columns are `INT UNSIGNED`; a
/// negative id is stored as its two's complement ([`ModuleId::to_unsigned`]), so that every id that fits
/// the wire also survives the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId {
    /// First half of the name.
    pub modid: i32,
    /// Second half of the name.
    pub cmdid: i32,
}

impl ModuleId {
    /// Names the module `modid`/`cmdid`.
    #[must_use]
    pub const fn new(modid: i32, cmdid: i32) -> Self {
        Self { modid, cmdid }
    }

    /// The agent shard that owns this module: `(modid + cmdid) mod shards`, in 64 bits and with a Euclidean
    /// remainder, so that neither a large nor a negative id leaves the range. For sums that are not negative
    /// it is what deployed C++ clients compute.
    ///
    /// # Panics
    /// If `shards` is 0; shard counts are validated where they are configured.
    #[must_use]
    pub fn shard(self, shards: usize) -> usize {
        let sum = i64::from(self.modid) + i64::from(self.cmdid);
        sum.rem_euclid(shards as i64) as usize
    }

    /// The pair as SQL stores it: two's complement in `INT UNSIGNED` columns.
    #[must_use]
    pub const fn to_unsigned(self) -> (u32, u32) {
        (self.modid.cast_unsigned(), self.cmdid.cast_unsigned())
    }

    /// The reverse of [`ModuleId::to_unsigned`].
    #[must_use]
    pub const fn from_unsigned(modid: u32, cmdid: u32) -> Self {
        Self::new(modid.cast_signed(), cmdid.cast_signed())
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.modid, self.cmdid)
    }
}

/// Messages that name a module carry it as two fields.
macro_rules! names_a_module {
    ($($message:ident),+ $(,)?) => {$(
        impl messages::$message {
            /// The module this message is about.
            #[must_use]
            pub const fn module(&self) -> ModuleId {
                ModuleId::new(self.modid, self.cmdid)
            }
        }
    )+};
}

names_a_module!(
    GetRouteRequest,
    GetRouteResponse,
    ReportStatusRequest,
    GetHostRequest,
    GetHostResponse,
    ReportRequest,
    ApiGetRouteRequest,
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ModuleId;

    #[test]
    fn shard_of_known_modules() {
        assert_eq!(ModuleId::new(1, 1).shard(3), 2);
        assert_eq!(ModuleId::new(9, 9).shard(3), 0);
        assert_eq!(ModuleId::new(-1, 0).shard(3), 2);
        assert_eq!(ModuleId::new(i32::MAX, i32::MAX).shard(3), 2);
        assert_eq!(ModuleId::new(i32::MIN, i32::MIN).shard(3), 2);
    }

    proptest! {
        #[test]
        fn shard_is_always_in_range(modid: i32, cmdid: i32, shards in 1usize..=64) {
            prop_assert!(ModuleId::new(modid, cmdid).shard(shards) < shards);
        }

        #[test]
        fn unsigned_round_trip(modid: i32, cmdid: i32) {
            let module = ModuleId::new(modid, cmdid);
            let (m, c) = module.to_unsigned();
            prop_assert_eq!(ModuleId::from_unsigned(m, c), module);
        }
    }
}
