//! Seeded simulations: many seeds where there is time, one where one failed.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// The variable that names the one seed to run.
const SEED: &str = "LARS_SIM_SEED";

/// Runs `simulate` with seeds until `budget` has passed, once at least; or with the seed that `LARS_SIM_SEED` names
/// alone. It counts its steps, so that a failure can be told with its seed and step.
///
/// # Panics
/// With seed and step, if `simulate` does; or if `LARS_SIM_SEED` is no number.
pub fn run_seeds(budget: Duration, mut next_seed: impl FnMut() -> u64, simulate: impl Fn(u64, &mut usize)) {
    let run = |seed| {
        let mut step = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| simulate(seed, &mut step)));
        // What went wrong was said when it did.
        assert!(outcome.is_ok(), "seed {seed} failed at step {step}; to replay: {SEED}={seed}");
    };
    if let Ok(seed) = env::var(SEED) {
        return run(seed.parse().expect("the seed is a number"));
    }
    let start = Instant::now();
    loop {
        run(next_seed());
        if start.elapsed() > budget {
            break;
        }
    }
}
