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

/// Shows how far a run of `length` is and how many operations are `done`, until `ended` hangs up.
pub fn show(length: Duration, done: &AtomicU64, ended: &Receiver<()>) {
    let started = Instant::now();
    // This draws nothing where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(millis(length)), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}") {
        bar.set_style(style);
    }
    while ended.recv_timeout(REDRAW_PERIOD) == Err(RecvTimeoutError::Timeout) {
        bar.set_position(millis(started.elapsed()).min(millis(length)));
        bar.set_message(format!("{} operations", done.load(Ordering::Relaxed)));
    }
    bar.finish_and_clear();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
