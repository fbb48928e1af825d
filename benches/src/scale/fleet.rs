//! Modules and hosts to measure with.

use std::net::Ipv4Addr;

use lars_proto::{HostAddr, ModuleId};

/// Modules that share a `modid`.
const CMDIDS: usize = 1_000;

/// The module number `n`, in the order of SQL.
#[must_use]
pub fn module(n: usize) -> ModuleId {
    let id = |n: usize| i32::try_from(n).expect("no fleet has 2³¹ modules");
    ModuleId::new(id(1 + n / CMDIDS), id(1 + n % CMDIDS))
}

/// Hosts as machines of a data centre have them, in 10.0.0.0/8.
#[must_use]
pub fn hosts(count: usize) -> Vec<HostAddr> {
    (0..count).map(host).collect()
}

fn host(n: usize) -> HostAddr {
    let offset = u32::try_from(n & 0x00ff_ffff).expect("24 bits");
    HostAddr::v4(Ipv4Addr::from_bits(0x0a00_0000 + offset), 8_080)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_distinct_and_ordered() {
        let modules: Vec<_> = (0..3_000).map(module).collect();
        assert!(modules.is_sorted() && modules.first() == Some(&ModuleId::new(1, 1)));
        assert!(modules.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
