//! The thread pool of the executor.
//!
//! A compiled step is a sequence of short parallel regions, some of them only a few microseconds long. General
//! task schedulers need 10–80 µs to start one; this pool needs a fraction of a microsecond, because its workers
//! keep looking at one shared word for a while after each region, and because there is no queue: the part a
//! thread runs follows from its number.
//!
//! Assumes: one thread at a time drives a pool. A second caller, and a part that calls [`Pool::run`] again, are
//! still correct: their parts run inline, on the thread that called.
//!
//! Promises: [`Pool::run`] calls every part exactly once and returns after the last has finished, even when
//! parts panic; it allocates nothing and takes no lock (except to carry a panic); parts `p` with the same
//! `p % n_threads` run one after the other on one thread, from run to run the same one unless that is late: what a
//! worker has not begun when the caller has finished its own parts, the caller does too, so that a run takes no longer
//! than on one thread, however long a sleeping worker needs to wake; an idle pool uses no CPU time after about 50 µs;
//! parts compute under the default floating-point environment, whatever that of the caller is, or was when the pool was made.

mod cores;
mod record;
mod sync;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cotangent_host::float::in_default;

use crate::cores::ThreadNumber;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, JoinHandle, Mutex, UnsafeCell};
use crate::sync::{elapsed, mpsc, pause, yield_now};

pub use crate::record::Span;

/// How long an idle worker looks for work before it parks. A model does not wait: it parks after each look that was in vain.
const SPIN: Duration = if cfg!(loom) { Duration::ZERO } else { Duration::from_micros(50) };

/// Looks at the word between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = if cfg!(loom) { 1 } else { 32 };

/// Looks before a waiting caller starts to give its time slice away (some tens of microseconds).
const CALLER_LOOKS: u32 = 4096;

/// A worker that has been late for so long, however often it was called, is probably waiting for the caller's core.
const PATIENCE: Duration = Duration::from_micros(200);

/// The least time from sending workers to other cores to doing so again.
const SENDING_PERIOD: Duration = Duration::from_millis(1);

/// The most threads a pool has; the low bits of the shared word hold a thread count.
const MAX_THREADS: usize = 1024;

/// The part of the shared word that holds how many threads take part in the current run.
const COUNT_BITS: u32 = 16;

/// The value of the shared word that ends the workers.
const STOP: u64 = u64::MAX;

/// What a panicking part left behind.
type Payload = Box<dyn Any + Send>;

/// Keeps its contents on cache lines of their own (two, because lines are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// The parallel region under way, with the lifetime of its closure erased.
#[derive(Clone, Copy)]
struct Job {
    f: *const (dyn Fn(usize) + Sync),
    n_parts: usize,
}

/// What the caller and the workers share.
struct Shared {
    /// `run number << COUNT_BITS | threads that take part`, or [`STOP`]. One word, so that a worker learns in a
    /// single load both that there is a new run and whether it takes part: only then may it look at `job`.
    word: Padded<AtomicU64>,
    /// The current run. Written by the caller before `word`, read by the workers that take part.
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not yet finished the current run.
    n_running: Padded<AtomicUsize>,
    /// Workers that are parked or about to park.
    n_parked: Padded<AtomicUsize>,
    /// Per worker: parked, or about to.
    parked: Box<[Padded<AtomicBool>]>,
    /// Per worker: the number of the last run whose parts of that worker have been begun, by it or for it.
    begun: Box<[Padded<AtomicU64>]>,
    /// The first panic of the current run.
    panic: Mutex<Option<Payload>>,
    /// Set with `panic`, so that the common case takes no lock.
    panicked: AtomicBool,
    /// Threads in the pool, the caller included.
    n_threads: AtomicUsize,
    /// There are more threads than cores, so that spinning keeps the others from working.
    oversubscribed: bool,
    /// When threads worked.
    recorder: record::Recorder,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. The caller (exclusive through `Pool::busy`)
// writes it only while no worker takes part in a run, and a worker reads it only after it has seen, with acquire
// ordering, a word that names it as taking part, and has been the first to claim its parts of that run; the caller
// then waits for it before it writes again.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used by threads only under the protocol above, and its target is `Sync`.
unsafe impl Send for Shared {}

/// A persistent set of threads that run the parts of one parallel region at a time.
///
/// On Linux a worker that is late for long is moved to another of the cores that it may run on; where it may run is afterwards
/// what it was before.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// A run is under way: taken by compare-and-swap, never waited for.
    busy: AtomicBool,
    start: Instant,
    /// Nanoseconds from the start to the first of the latest runs that some worker was late for, or 0. As the next field, only
    /// for the thread that drives the pool.
    late_since: AtomicU64,
    /// Nanoseconds from the start to when workers were last sent to other cores.
    sent_away: AtomicU64,
    /// Workers were late for long, so those that wake are sent to other cores at once: a virtual machine whose idle cores count
    /// as taken by somebody else wakes threads on the core of the caller, always.
    wakes_here: AtomicBool,
}

/// A thread of the pool other than the caller.
struct Worker {
    handle: JoinHandle<()>,
    number: ThreadNumber,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, fmt: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fmt.debug_struct("Pool").field("n_threads", &self.n_threads()).finish()
    }
}

impl Pool {
    /// A pool of `n_threads` threads, the calling one included: `1` (and `0`) makes no thread at all.
    ///
    /// If the system refuses a thread the pool is smaller than asked for; [`Pool::n_threads`] tells.
    pub fn new(n_threads: usize) -> Self {
        let wanted = n_threads.clamp(1, MAX_THREADS);
        let n_cores = cotangent_host::Target::here().cores();
        let shared = Arc::new(Shared {
            word: Padded(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            n_running: Padded(AtomicUsize::new(0)),
            n_parked: Padded(AtomicUsize::new(0)),
            parked: (1..wanted).map(|_| Padded(AtomicBool::new(false))).collect(),
            begun: (1..wanted).map(|_| Padded(AtomicU64::new(0))).collect(),
            panic: Mutex::new(None),
            panicked: AtomicBool::new(false),
            n_threads: AtomicUsize::new(1),
            oversubscribed: wanted > n_cores,
            recorder: record::Recorder::default(),
        });
        let mut workers = Vec::with_capacity(wanted - 1);
        for id in 1..wanted {
            let worker = Arc::clone(&shared);
            let name = format!("cotangent-{id}");
            shared.n_running.0.fetch_add(1, Ordering::Relaxed);
            let (sender, receiver) = mpsc::channel();
            let spawned = sync::spawn(name, move || {
                // Only the receiver below could refuse it, and that waits.
                let _ = sender.send(ThreadNumber::mine());
                work(&worker, id);
            });
            match spawned.map(|handle| (handle, receiver.recv())) {
                Ok((handle, Ok(number))) => workers.push(Worker { handle, number }),
                _ => {
                    shared.n_running.0.fetch_sub(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        // The start counts as a run, so that no later one pays for it: a thread allocates before it gets to its work.
        while shared.n_running.0.load(Ordering::Acquire) != 0 {
            yield_now();
        }
        // The first run is published after this store, with release ordering: every worker of a run sees it.
        shared.n_threads.store(workers.len() + 1, Ordering::Relaxed);
        let (late_since, sent_away) = (AtomicU64::new(0), AtomicU64::new(0));
        let [busy, wakes_here] = [false, false].map(AtomicBool::new);
        Pool { shared, workers, busy, start: Instant::now(), late_since, sent_away, wakes_here }
    }

    /// The number of threads, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// From now on notes when each thread works on its parts of a run, or no longer; gives what was noted until now, in the order
    /// of the ends. Runs on one thread are not noted.
    pub fn record(&self, on: bool) -> Vec<Span> {
        self.shared.recorder.turn(on)
    }

    /// Calls `f(part)` for every part of `0..n_parts` exactly once and returns when all calls have returned.
    ///
    /// Part `p` runs on thread `p % n_threads`, or on thread 0, the caller, if that is done with its own parts before
    /// the other one begins. A call from within a part, or while another thread drives this pool, runs all its parts on
    /// the calling thread, in order; parts must therefore not wait for each other.
    ///
    /// # Panics
    /// If parts panic, the others still run, and then the first panic that was caught continues on the caller.
    pub fn run(&self, n_parts: usize, f: &(dyn Fn(usize) + Sync)) {
        if n_parts <= 1 || self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire) {
            return run_inline(n_parts, f);
        }
        let shared = &*self.shared;
        let n_threads = self.n_threads();
        let n_active = n_threads.min(n_parts);
        // SAFETY: only the lifetime changes. The pointer is used by parts of this run alone, and this function
        // does not return or unwind before `n_running` is zero, that is before the last of them has finished.
        let erased = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(f)
        };
        // SAFETY: `busy` makes this thread the only caller, and no worker takes part in a run now (`n_running`
        // was zero when the last one ended), so nobody else looks at the job.
        shared.job.with_mut(|job| unsafe { *job = Some(Job { f: erased, n_parts }) });
        shared.n_running.0.store(n_active - 1, Ordering::Relaxed);
        let number = (shared.word.0.load(Ordering::Relaxed) >> COUNT_BITS).wrapping_add(1);
        // Sequentially consistent, as are the loads of `n_parked` below and the worker's own two accesses in
        // `park`: either the worker sees this word before it sleeps or we see that it is about to sleep.
        shared.word.0.store(number << COUNT_BITS | n_active as u64, Ordering::SeqCst);
        if shared.n_parked.0.load(Ordering::SeqCst) > 0 {
            self.wake(n_active);
        }
        run_parts(shared, f, (0, 0), n_threads, n_parts);
        // A worker that sleeps, or whose core is taken, may begin later than this thread could be done with its parts.
        let mut late = false;
        for id in 1..n_active {
            if shared.n_running.0.load(Ordering::Acquire) != 0 && claim(shared, id, number) {
                run_parts(shared, f, (id, 0), n_threads, n_parts);
                shared.n_running.0.fetch_sub(1, Ordering::Relaxed);
                late = true;
            }
        }
        if late {
            self.late(n_active);
        } else if self.late_since.load(Ordering::Relaxed) != 0 {
            self.late_since.store(0, Ordering::Relaxed);
        }
        let mut looks = 0;
        while shared.n_running.0.load(Ordering::Acquire) != 0 {
            if looks == CALLER_LOOKS {
                self.send_away(n_active);
            }
            looks = wait(looks, shared.oversubscribed);
        }
        let payload = if shared.panicked.load(Ordering::Relaxed) { take_panic(shared) } else { None };
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    /// Takes note that a worker was late, and sends workers to other cores if that has been so for long.
    #[cold]
    fn late(&self, n_active: usize) {
        let now = elapsed(self.start);
        match self.late_since.load(Ordering::Relaxed) {
            0 => self.late_since.store((now.as_nanos() as u64).max(1), Ordering::Relaxed),
            since if now > Duration::from_nanos(since) + PATIENCE => {
                self.wakes_here.store(!self.shared.oversubscribed, Ordering::Relaxed);
                self.send_away(n_active);
            }
            _ => {}
        }
    }

    /// Sends the workers of the first `n_active` threads to other cores than the caller's, but not too often: they may be
    /// there already.
    #[cold]
    fn send_away(&self, n_active: usize) {
        let now = elapsed(self.start);
        let last = Duration::from_nanos(self.sent_away.load(Ordering::Relaxed));
        if self.shared.oversubscribed || now < last + SENDING_PERIOD {
            return;
        }
        self.sent_away.store(now.as_nanos() as u64, Ordering::Relaxed);
        for worker in self.workers.iter().take(n_active - 1) {
            worker.number.send_away();
        }
    }

    /// Unparks those of the first `n_active` threads that sleep.
    #[cold]
    fn wake(&self, n_active: usize) {
        for (worker, parked) in self.workers.iter().zip(&self.shared.parked).take(n_active - 1) {
            if parked.0.load(Ordering::SeqCst) {
                worker.handle.thread().unpark();
                if self.wakes_here.load(Ordering::Relaxed) {
                    worker.number.send_away();
                }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.word.0.store(STOP, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.handle.thread().unpark();
            // A worker catches the panics of its parts, so it cannot have ended by one.
            let _ = worker.handle.join();
        }
    }
}

/// The range of part `part` when `0..len` is divided into `n_parts` ranges whose starts are multiples of `align`.
///
/// The ranges cover `0..len` in order; their sizes, counted in whole units of `align`, differ by at most one.
/// Ranges may be empty. `n_parts` and `align` of zero count as one.
pub fn split(len: usize, n_parts: usize, part: usize, align: usize) -> Range<usize> {
    let (n_parts, align) = (n_parts.max(1), align.max(1));
    let n_units = len.div_ceil(align);
    let (each, longer) = (n_units / n_parts, n_units % n_parts);
    let start = |part: usize| (part * each + part.min(longer)) * align;
    start(part).min(len)..start(part + 1).min(len)
}

/// All parts on the calling thread, under the same rule for panics as a parallel run.
fn run_inline(n_parts: usize, f: &(dyn Fn(usize) + Sync)) {
    let mut first = None;
    for part in 0..n_parts {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| in_default(|| f(part)))) {
            first.get_or_insert(payload);
        }
    }
    if let Some(payload) = first {
        resume_unwind(payload);
    }
}

/// The parts of thread `id`, on thread `by`; panics are kept for the caller, because unwinding here would free what others use.
fn run_parts(shared: &Shared, f: &(dyn Fn(usize) + Sync), (id, by): (usize, usize), n_threads: usize, n_parts: usize) {
    let start = shared.recorder.start();
    for part in (id..n_parts).step_by(n_threads) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| in_default(|| f(part)))) {
            let mut first = shared.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match *first {
                None => *first = Some(payload),
                // Its destructor could panic too, and would then end the worker that others wait for.
                Some(_) => std::mem::forget(payload),
            }
            shared.panicked.store(true, Ordering::Relaxed);
        }
    }
    shared.recorder.end(by, start);
}

#[cold]
fn take_panic(shared: &Shared) -> Option<Payload> {
    shared.panicked.store(false, Ordering::Relaxed);
    shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// One look's worth of waiting for the caller; the result is the count to pass next time.
fn wait(looks: u32, oversubscribed: bool) -> u32 {
    if oversubscribed || looks > CALLER_LOOKS {
        // Either there are more threads than cores, or the core of a worker seems to be taken by someone else.
        yield_now();
    } else {
        pause();
    }
    looks.saturating_add(1)
}

/// Whether nobody has begun the parts of worker `id` in this run; from now on, somebody has.
///
/// A worker that was late for an earlier run asks with that run's number, which is not above the last one begun.
fn claim(shared: &Shared, id: usize, number: u64) -> bool {
    let begun = &shared.begun[id - 1].0;
    begun.load(Ordering::Relaxed) < number && begun.fetch_max(number, Ordering::AcqRel) < number
}

/// The life of worker `id`.
fn work(shared: &Shared, id: usize) {
    shared.n_running.0.fetch_sub(1, Ordering::Release);
    let mut seen = 0;
    loop {
        let word = next_word(shared, id, seen);
        if word == STOP {
            return;
        }
        seen = word;
        let n_active = (word & ((1 << COUNT_BITS) - 1)) as usize;
        if id >= n_active || !claim(shared, id, word >> COUNT_BITS) {
            continue;
        }
        // SAFETY: the word, loaded with acquire ordering, names this worker as taking part: the caller wrote the
        // job before it. The parts were not begun before, so the caller waits for this worker before it writes the
        // job again.
        let job = shared.job.with(|job| unsafe { *job });
        if let Some(job) = job {
            // SAFETY: the caller is inside `run` until this worker has counted itself out below, so the closure
            // it lent us is alive.
            let f = unsafe { &*job.f };
            run_parts(shared, f, (id, id), shared.n_threads.load(Ordering::Relaxed), job.n_parts);
        }
        shared.n_running.0.fetch_sub(1, Ordering::Release);
    }
}

/// Waits, spinning for [`SPIN`] and then parked, for a word other than `seen`.
fn next_word(shared: &Shared, id: usize, seen: u64) -> u64 {
    let mut start = None;
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            let word = shared.word.0.load(Ordering::Acquire);
            if word != seen {
                return word;
            }
            if shared.oversubscribed {
                yield_now();
            } else {
                pause();
            }
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= SPIN {
            return park(shared, id, seen);
        }
    }
}

/// Sleeps until the word differs from `seen`.
///
/// A worker that takes no part in a run is not woken and may sleep through any number of them.
#[cold]
fn park(shared: &Shared, id: usize, seen: u64) -> u64 {
    let parked = &shared.parked[id - 1].0;
    parked.store(true, Ordering::SeqCst);
    shared.n_parked.0.fetch_add(1, Ordering::SeqCst);
    let word = loop {
        let word = shared.word.0.load(Ordering::SeqCst);
        if word != seen {
            break word;
        }
        // A token left by an earlier `unpark` makes this return at once; the loop then looks again.
        sync::park();
    };
    shared.n_parked.0.fetch_sub(1, Ordering::SeqCst);
    parked.store(false, Ordering::SeqCst);
    word
}

/// The pool is shared by sessions, which move between threads.
const fn assert_send_sync<T: Send + Sync>() {}
const _: () = assert_send_sync::<Pool>();
