//! A bar on a terminal while a run lasts; on anything else, nothing.

use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const REDRAW_PERIOD: Duration = Duration::from_millis(250);

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// After a time.
    Time(Duration),
    /// After so many operations.
    Operations(u64),
}

impl Extent {
    fn total(self) -> u64 {
        match self {
            Self::Time(length) => millis(length),
            Self::Operations(count) => count,
        }
    }

    fn so_far(self, elapsed: Duration, done: u64) -> u64 {
        match self {
            Self::Time(_) => millis(elapsed),
            Self::Operations(_) => done,
        }
    }
}

/// Shows how far a run is and how many operations are `done`, until `ended` hangs up.
pub fn show(extent: Extent, done: &AtomicU64, ended: &Receiver<()>) {
    let started = Instant::now();
    // This draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(extent.total()), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    while ended.recv_timeout(REDRAW_PERIOD) == Err(RecvTimeoutError::Timeout) {
        let done = done.load(Ordering::Relaxed);
        bar.set_position(extent.so_far(started.elapsed(), done).min(extent.total()));
        bar.set_message(format!("{done} operations"));
    }
    bar.finish_and_clear();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
