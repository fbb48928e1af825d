//! The ticker: an OS thread that wakes every shard every 100 ms.
//!
//! glommio 0.9.0 can park for ever with runnable tasks if its thread is descheduled for longer than the preempt
//! timer at the wrong point. A wake from another thread cures that (a glommio timer does not): waking a task of
//! a `Latency::Matters` queue always writes the executor's eventfd. Everything periodic on a shard hangs on the
//! same ticker, so there is one source of time and no timers per connection.

use std::{
    future::poll_fn,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Poll, Waker},
    thread::{self, JoinHandle},
    time::Duration,
};

/// Time between ticks, at most.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// Wakes of one shard that may be outstanding. glommio counts the wakers of a task in 15 bits and panics above;
/// a shard this far behind is busy, not lost.
const OUTSTANDING_MAX: u32 = 1_000;

/// One shard's end of the ticker.
#[derive(Default)]
pub(crate) struct TickReceiver {
    waker: Mutex<Option<Waker>>,
    outstanding: AtomicU32,
}

impl TickReceiver {
    /// Waits, on the shard, for the next tick.
    pub(crate) async fn next(&self) {
        poll_fn(|cx| {
            if self.outstanding.swap(0, Ordering::AcqRel) > 0 {
                return Poll::Ready(());
            }
            let mut waker = lock(&self.waker);
            if !waker.as_ref().is_some_and(|present| present.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            drop(waker);
            // A tick between the first look and the registration would be missed else.
            if self.outstanding.swap(0, Ordering::AcqRel) > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn tick(&self) {
        if self.outstanding.fetch_add(1, Ordering::AcqRel) >= OUTSTANDING_MAX {
            self.outstanding.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }

    /// After this no other thread holds a waker of the shard's clock.
    pub(crate) fn detach(&self) {
        lock(&self.waker).take();
    }
}

struct Control {
    period: Duration,
    stopped: bool,
}

/// The thread. Dropping it stops and joins.
pub(crate) struct Ticker {
    control: Arc<(Mutex<Control>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(name: &str, receivers: Vec<Arc<TickReceiver>>) -> std::io::Result<Self> {
        let control = Control { period: PERIOD, stopped: false };
        let control = Arc::new((Mutex::new(control), Condvar::new()));
        let thread = thread::Builder::new().name(format!("{name}-ticker")).spawn({
            let control = Arc::clone(&control);
            move || run(&control, &receivers)
        })?;
        Ok(Self { control, thread: Some(thread) })
    }

    /// From now on, ticks come at least each `period`.
    pub(crate) fn tick_each(&self, period: Duration) {
        let (control, changed) = &*self.control;
        let mut control = lock(control);
        control.period = control.period.min(period).max(PERIOD_MIN);
        changed.notify_one();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let (control, changed) = &*self.control;
        lock(control).stopped = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there would be nothing left to do here.
            let _ = thread.join();
        }
    }
}

fn run((control, changed): &(Mutex<Control>, Condvar), receivers: &[Arc<TickReceiver>]) {
    let mut control = lock(control);
    while !control.stopped {
        let period = control.period;
        control = changed.wait_timeout(control, period).unwrap_or_else(PoisonError::into_inner).0;
        for receiver in receivers {
            receiver.tick();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Wake},
    };

    use futures_lite::future::block_on;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn pulses_come_again_and_again() {
        let receivers = [Arc::new(TickReceiver::default()), Arc::new(TickReceiver::default())];
        let ticker = Ticker::start("test", receivers.to_vec()).expect("a thread");
        ticker.tick_each(Duration::ZERO);
        for _ in 0..10 {
            for receiver in &receivers {
                block_on(receiver.next());
            }
        }
    }

    #[test]
    fn a_pulse_before_the_wait_is_not_missed() {
        let receiver = TickReceiver::default();
        receiver.tick();
        block_on(receiver.next());
    }

    #[test]
    fn a_shard_that_does_not_run_is_not_woken_without_end() {
        let (receiver, wakes) = (TickReceiver::default(), Arc::new(Wakes::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut next = pin!(receiver.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        for _ in 0..10 * OUTSTANDING_MAX {
            receiver.tick();
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), OUTSTANDING_MAX);
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_ready(), "when it runs, it knows");
    }
}
