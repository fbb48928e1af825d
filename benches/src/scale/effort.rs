//! [`Effort`]: how often and for how long each point is measured.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use super::{
    ScaleError,
    curve::{Series, Spread},
};

/// Operations that one look at the clock is for, at most; more are timed in several goes.
const BATCH_MAX: u64 = 1 << 24;

/// How thoroughly to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Repetitions of each point, of which the median is taken.
    pub repetitions: usize,
    /// The length of one repetition of what takes nanoseconds, about.
    pub length: Duration,
    /// Only so much is measured that it can be seen to work.
    pub quick: bool,
}

impl Effort {
    /// What the committed curves are measured with.
    pub fn thorough(repetitions: usize) -> Self {
        Self { repetitions, length: Duration::from_millis(20), quick: false }
    }

    /// A tenth of the sizes, and few repetitions of them.
    pub fn quick() -> Self {
        Self { repetitions: 3, length: Duration::from_millis(2), quick: true }
    }

    /// The sizes to measure: all, or those below the largest ones.
    pub fn sizes<'a>(&self, sizes: &'a [usize]) -> &'a [usize] {
        if self.quick { &sizes[..sizes.len().div_ceil(2)] } else { sizes }
    }

    /// Says what is measured next, to somebody who waits for it.
    pub fn say(&self, what: impl Display) {
        let mut notes = io::stderr();
        if notes.is_terminal() {
            // Nobody depends on it.
            let _ = writeln!(notes, "{what}");
        }
    }

    /// Lines with these labels: `measure` says what each of them is at a size. `what` is measured.
    pub fn series<const N: usize>(
        &self,
        what: &str,
        sizes: &[usize],
        labels: [&str; N],
        mut measure: impl FnMut(usize) -> Result<[Spread; N], ScaleError>,
    ) -> Result<[Series; N], ScaleError> {
        let mut all = labels.map(Series::new);
        for &size in self.sizes(sizes) {
            self.say(format_args!("{what}: {size}"));
            for (series, figure) in all.iter_mut().zip(measure(size)?) {
                series.add(size, figure);
            }
        }
        Ok(all)
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
            nanos(elapsed(1, &mut || op(&mut input)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_many_short_operations_or_one_long_one() {
        let (effort, mut short, mut long, mut prepared) = (Effort::quick(), 0, 0, 0);
        let spread = effort.time(|| short += 1);
        assert!(short > 100, "{short}");
        assert!(spread.lowest <= spread.median && spread.median <= spread.highest);
        effort.time(|| {
            long += 1;
            std::thread::sleep(effort.length * 2);
        });
        effort.time_once(|| prepared += 1, |()| {});
        assert_eq!([long, prepared], [1 + effort.repetitions; 2]);
    }

    #[test]
    fn a_line_has_a_point_for_each_size_and_quick_ones_for_the_smaller_half() {
        let check = |effort: Effort, expected: &[f64]| {
            let measure = |size| Ok([Spread::exactly(size as f64), Spread::exactly(0.0)]);
            let [line, other] =
                effort.series("sizes", &[1, 2, 3, 4, 5], ["a", "b"], measure).expect("measured");
            let points: Vec<f64> = line.points.iter().map(|point| point.y.median).collect();
            assert_eq!((points.as_slice(), other.points.len()), (expected, expected.len()));
        };
        check(Effort::quick(), &[1.0, 2.0, 3.0]);
        check(Effort::thorough(5), &[1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}
