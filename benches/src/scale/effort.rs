//! [`Effort`]: how often and for how long each point is measured.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::curve::Spread;

/// Operations that one look at the clock is for, at most; more are timed in several goes.
const BATCH_MAX: u64 = 1 << 24;

/// How thoroughly to measure, and where to show how far it is.
pub struct Effort {
    /// Repetitions of each point, of which the median is taken.
    pub repetitions: usize,
    /// The length of one repetition of what takes nanoseconds, about.
    pub length: Duration,
    /// Only so much is measured that it can be seen to work.
    pub quick: bool,
    bar: ProgressBar,
}

impl Effort {
    /// What the committed curves are measured with.
    #[must_use]
    pub fn thorough(repetitions: usize) -> Self {
        Self { repetitions, length: Duration::from_millis(20), quick: false, bar: bar() }
    }

    /// A tenth of the sizes, and few repetitions of them.
    #[must_use]
    pub fn quick() -> Self {
        Self { repetitions: 3, length: Duration::from_millis(2), quick: true, bar: bar() }
    }

    /// The sizes to measure: all, or those below the largest ones.
    #[must_use]
    pub fn sizes<'a>(&self, sizes: &'a [usize]) -> &'a [usize] {
        if self.quick { &sizes[..sizes.len().div_ceil(2)] } else { sizes }
    }

    /// Says what is measured next, on a terminal.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
        self.bar.tick();
    }

    /// Nanoseconds that `op` takes. It is called often enough to see that, and some times before.
    pub fn time(&self, mut op: impl FnMut()) -> Spread {
        let batch = self.calibrated(&mut op);
        let repetitions = (0..self.repetitions).map(|_| nanos(elapsed(batch, &mut op)) / batch as f64);
        Spread::of(repetitions).unwrap_or_default()
    }

    /// Nanoseconds that `op` takes on what `prepare` makes, which is not counted; each repetition is one call.
    pub fn time_once<T>(&self, mut prepare: impl FnMut() -> T, mut op: impl FnMut(&mut T)) -> Spread {
        let mut once = || {
            let mut input = prepare();
            let start = Instant::now();
            op(&mut input);
            nanos(start.elapsed())
        };
        once();
        Spread::of((0..self.repetitions).map(|_| once())).unwrap_or_default()
    }

    /// How many operations fill a repetition.
    fn calibrated(&self, op: &mut impl FnMut()) -> u64 {
        let mut batch = 1;
        loop {
            let took = elapsed(batch, op);
            if took >= self.length / 4 || batch >= BATCH_MAX {
                let wanted = batch as f64 * self.length.as_secs_f64() / took.as_secs_f64().max(1e-9);
                return (wanted as u64).clamp(1, BATCH_MAX);
            }
            batch *= 4;
        }
    }
}

impl Drop for Effort {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn elapsed(batch: u64, op: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..batch {
        op();
    }
    start.elapsed()
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Draws nothing where standard error is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}  {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_many_short_operations_or_one_long_one() {
        let effort = Effort::quick();
        let mut calls = 0_u64;
        let spread = effort.time(|| calls += 1);
        assert!(calls > 100, "{calls}");
        assert!(spread.lowest <= spread.median && spread.median <= spread.highest);

        let mut calls = 0;
        effort.time(|| {
            calls += 1;
            std::thread::sleep(effort.length * 2);
        });
        assert_eq!(calls, 1 + effort.repetitions);
    }

    #[test]
    fn what_is_prepared_is_used_once() {
        let effort = Effort::quick();
        let mut prepared = 0;
        let spread = effort.time_once(
            || {
                prepared += 1;
                prepared
            },
            |input| *input = 0,
        );
        assert_eq!(prepared, 1 + effort.repetitions);
        assert!(spread.lowest >= 0.0);
    }

    #[test]
    fn quick_sizes_are_the_smaller_half() {
        assert_eq!(Effort::quick().sizes(&[1, 2, 3, 4, 5]), [1, 2, 3]);
        assert_eq!(Effort::thorough(5).sizes(&[1, 2]), [1, 2]);
    }
}
