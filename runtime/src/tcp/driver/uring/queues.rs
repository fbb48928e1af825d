//! The io_uring of one shard: requests go in, completions come out, nothing waits.
//!
//! It is entered from the shard's thread only (`SINGLE_ISSUER`), and the kernel does its part of the work only
//! there (`DEFER_TASKRUN`), so that one call submits everything and collects everything. An eventfd tells when
//! there is something to collect; it is silent while somebody collects anyway.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::{self, ManuallyDrop},
    os::fd::RawFd,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{Fd, SubmitArgs, Timespec},
};
use nix::errno::Errno;

use super::buffers::Buffers;
use crate::{glommio_facts::executor, pool::Pool, tcp::connection::SLICES_MAX};

/// Requests that are submitted with one call; more are submitted with several.
const SUBMISSIONS: u32 = 256;
/// Completions that are collected with one call; the kernel keeps more.
const COMPLETIONS: u32 = 1024;
/// Completions that wait to be looked at, at most; the kernel keeps the others.
const BATCH: usize = 256;

/// The group of the provided buffers.
const GROUP: u16 = 0;

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Bytes, again and again.
    Receive,
    Send,
    /// The end of a `Receive`.
    Cancel,
}

impl Request {
    const ALL: [Self; 3] = [Self::Receive, Self::Send, Self::Cancel];

    fn tag(self, slot: u32) -> u64 {
        u64::from(slot) << 8 | self as u64
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) request: Request,
    /// Whose request it was.
    pub(super) slot: u32,
    /// Bytes, or the negative number of an error.
    result: i32,
    /// What was received lies here, until [`Buffers::recycle`].
    pub(super) buffer: Option<u16>,
    /// Whether the request goes on.
    pub(super) more: bool,
}

/// A message of several slices. The kernel reads it when it is submitted.
struct Gather {
    slices: [libc::iovec; SLICES_MAX],
    message: libc::msghdr,
}

/// See the module's text.
pub(super) struct Uring {
    /// Dropped before the buffers.
    uring: ManuallyDrop<IoUring>,
    /// Requests that found the submission queue full; never more than the connections' own few.
    backlog: VecDeque<squeue::Entry>,
    /// Boxes for messages; the first `gathered` are being submitted.
    #[expect(clippy::vec_box, reason = "a message stays where it is when there are more")]
    gathers: Vec<Box<Gather>>,
    gathered: usize,
    /// Sends that are queued: most complete while they are submitted.
    sends_queued: usize,
    /// Requests that may touch memory of this process.
    in_flight: usize,
    buffers: ManuallyDrop<Buffers>,
}

impl Uring {
    /// To be called on the thread that will use it. `eventfd` is written to when there is something to collect.
    pub(super) fn new(pool: &Pool, eventfd: RawFd) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::new(pool)?;
        let (ring, entries) = buffers.entries();
        let submitter = uring.submitter();
        // SAFETY: the memory is page-aligned, large enough, and outlives the ring.
        unsafe { submitter.register_buf_ring_with_flags(ring, entries, GROUP, 0)? };
        submitter.register_eventfd(eventfd)?;
        Ok(Self {
            uring: ManuallyDrop::new(uring),
            backlog: VecDeque::new(),
            gathers: Vec::new(),
            gathered: 0,
            sends_queued: 0,
            in_flight: 0,
            buffers: ManuallyDrop::new(buffers),
        })
    }

    pub(super) fn locked_bytes() -> u64 {
        executor::ring_bytes(SUBMISSIONS.into(), COMPLETIONS.into()) + Buffers::RING_LEN
    }

    pub(super) fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    /// Receives until it is cancelled, the stream ends or fails, or buffers run out.
    pub(super) fn receive(&mut self, fd: RawFd, slot: u32) {
        let entry = opcode::RecvMulti::new(Fd(fd), GROUP).build();
        self.in_flight += 1;
        self.push(entry.user_data(Request::Receive.tag(slot)));
    }

    /// Ends `receive`, whose last completion is to come.
    pub(super) fn cancel_receive(&mut self, slot: u32) {
        let entry = opcode::AsyncCancel::new(Request::Receive.tag(slot)).build();
        self.in_flight += 1;
        self.push(entry.user_data(Request::Cancel.tag(slot)));
    }

    /// Sends some of these bytes, in their order.
    ///
    /// # Safety
    /// The bytes have to stay where they are until the completion comes.
    pub(super) unsafe fn send(&mut self, fd: RawFd, slot: u32, slices: &[IoSlice<'_>]) {
        const FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
        let entry = match slices {
            [one] => opcode::Send::new(Fd(fd), one.as_ptr(), one.len() as u32).flags(FLAGS).build(),
            several => opcode::SendMsg::new(Fd(fd), self.gather(several)).flags(FLAGS as u32).build(),
        };
        self.in_flight += 1;
        self.sends_queued += 1;
        self.push(entry.user_data(Request::Send.tag(slot)));
    }

    /// The message stays where it is until what is queued now is submitted, and then the kernel has its copy.
    fn gather(&mut self, slices: &[IoSlice<'_>]) -> *const libc::msghdr {
        if self.gathered == self.gathers.len() {
            // SAFETY: both are plain old structures for which zeroes are a value.
            self.gathers.push(Box::new(unsafe { mem::zeroed() }));
        }
        let gather = &mut self.gathers[self.gathered];
        self.gathered += 1;
        for (to, slice) in gather.slices.iter_mut().zip(slices) {
            *to = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
        }
        gather.message.msg_iov = gather.slices.as_mut_ptr();
        gather.message.msg_iovlen = slices.len();
        &raw const gather.message
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what the entry refers to stays valid: see `receive` (the buffers live longer than the ring) and
        // `send` (its caller's promise).
        if !self.backlog.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Whether there is anything to submit or to collect.
    pub(super) fn has_work(&mut self) -> bool {
        self.has_to_submit() || self.has_to_collect()
    }

    /// Whether requests are queued.
    fn has_to_submit(&mut self) -> bool {
        !self.backlog.is_empty() || !self.uring.submission().is_empty()
    }

    /// Whether something has come.
    pub(super) fn has_to_collect(&mut self) -> bool {
        let submission = self.uring.submission();
        let asks_to_be_entered = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        asks_to_be_entered || !self.uring.completion().is_empty()
    }

    /// Submits what is queued, waits for `linger`, if there is one, until something has come, and fills `completions`
    /// up with it.
    ///
    /// # Errors
    /// If the kernel refuses to be asked at all.
    pub(super) fn turn(
        &mut self,
        completions: &mut VecDeque<Completion>,
        linger: Option<Duration>,
    ) -> io::Result<()> {
        match linger.filter(|_| self.backlog.is_empty()) {
            Some(linger) => self.wait(linger)?,
            None => self.submit()?,
        }
        if !self.has_to_submit() {
            self.gathered = 0;
            self.sends_queued = 0;
        }
        let room = BATCH - completions.len();
        for entry in self.uring.completion().take(room) {
            let completion = Completion::of(&entry);
            debug_assert!(completion.more || self.in_flight > 0);
            self.in_flight -= usize::from(!completion.more);
            completions.push_back(completion);
        }
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        while self.has_work_for_the_kernel() {
            let queued = self.uring.submission().len();
            self.enter(queued)?;
            if !self.refill() {
                break;
            }
        }
        Ok(())
    }

    fn has_work_for_the_kernel(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow() || !self.backlog.is_empty()
    }

    /// Moves requests that waited into the submission queue; whether there was room.
    fn refill(&mut self) -> bool {
        let mut submission = self.uring.submission();
        let before = self.backlog.len();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as for `push`, which took it.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        self.backlog.len() < before
    }

    fn enter(&mut self, queued: usize) -> io::Result<()> {
        const GETEVENTS: u32 = 1;
        // SAFETY: the arguments are numbers, and no signal mask is passed.
        let entered =
            unsafe { self.uring.submitter().enter::<libc::sigset_t>(queued as u32, 0, GETEVENTS, None) };
        come_back(entered)
    }

    /// Submits, and waits in the ring until something has come besides the ends of the sends, which are no news: those
    /// of this call most often come at once. Where one does not, because its peer reads nothing, another connection's
    /// event may have to wait for the next or for the end of the time.
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args(self.sends_queued + 1, &args) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            waited => come_back(waited),
        }
    }

    /// From now on the eventfd tells when there is something to collect. Whether there is nothing yet; else it
    /// stays silent.
    pub(super) fn prepare_to_park(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // The kernel announces work first and looks whether it is to write second; this is the other way round,
        // so one of both sees the other.
        fence(Ordering::SeqCst);
        let idle = !self.has_work();
        if !idle {
            self.unpark();
        }
        idle
    }

    /// The eventfd is silent.
    pub(super) fn unpark(&mut self) {
        self.uring.completion().disable_eventfd();
    }
}

/// Interrupted, or too much waits to be collected: the kernel will be asked again.
fn come_back(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
            Ok(())
        }
        entered => entered.map(drop),
    }
}

impl Completion {
    /// Bytes, or the error.
    pub(super) fn outcome(&self) -> Result<usize, Errno> {
        usize::try_from(self.result).map_err(|_| Errno::from_raw(-self.result))
    }

    pub(super) fn is_out_of_buffers(&self) -> bool {
        self.outcome() == Err(Errno::ENOBUFS)
    }

    fn of(entry: &cqueue::Entry) -> Self {
        Self {
            request: Request::ALL[(entry.user_data() & 0xff) as usize],
            slot: (entry.user_data() >> 8) as u32,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // SAFETY: it is not used after this.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
        if self.in_flight == 0 {
            // SAFETY: it is not used after this, and no request refers to it.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        } else {
            // The kernel takes a closed ring apart in the background and may still write to them.
            tracing::debug!(requests = self.in_flight, "a ring was closed with requests in flight");
        }
    }
}
