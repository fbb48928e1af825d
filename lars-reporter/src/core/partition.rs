//! Which writer keeps a module's rows.

use lars_proto::ModuleId;

/// Any constant will do, as long as it stays: another seed would deal the modules anew.
const SEED: u32 = 0;

/// The one of `writers` that all rows of `module` go to, so that they are written by one thread and in the
/// order in which they came.
///
/// # Panics
/// If `writers` is 0; the number is validated where it is configured.
#[must_use]
pub fn writer_of(module: ModuleId, writers: usize) -> usize {
    let mut name = [0; 8];
    name[..4].copy_from_slice(&module.modid.to_le_bytes());
    name[4..].copy_from_slice(&module.cmdid.to_le_bytes());
    let hash = murmur3::murmur3_32(&mut &name[..], SEED).expect("memory can be read");
    hash as usize % writers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stays_as_it_is() {
        let of_64 = |modid, cmdid| writer_of(ModuleId::new(modid, cmdid), 64);
        assert_eq!([of_64(0, 0), of_64(1, 1), of_64(1, 2), of_64(-1, 7)], [60, 26, 6, 3]);
    }

    #[test]
    fn neighbouring_modules_are_spread_evenly() {
        const WRITERS: usize = 8;
        let mut modules = [0_i32; WRITERS];
        for modid in 0..100 {
            for cmdid in 0..100 {
                modules[writer_of(ModuleId::new(modid, cmdid), WRITERS)] += 1;
            }
        }
        let fair = 100 * 100 / WRITERS as i32;
        for (writer, count) in modules.iter().enumerate() {
            assert!((count - fair).abs() < fair / 10, "writer {writer} has {count} modules, fair is {fair}");
        }
    }

    proptest! {
        #[test]
        fn is_always_in_range(modid: i32, cmdid: i32, writers in 1_usize..=64) {
            prop_assert!(writer_of(ModuleId::new(modid, cmdid), writers) < writers);
        }
    }
}
