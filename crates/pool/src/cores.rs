//! Which core a thread is on, where the system has a word for it: Linux. Elsewhere nothing is known and nothing is done.
//!
//! A worker that wakes may be queued on the core of the thread that woke it, while another core is idle. The system
//! moves it after milliseconds; a region of microseconds had better not wait for that.

/// A thread of this process, as the system names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadNumber(#[cfg(target_os = "linux")] libc::pid_t);

impl ThreadNumber {
    /// The calling thread.
    pub(crate) fn mine() -> Self {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: asks for a number, and cannot fail.
            ThreadNumber(unsafe { libc::gettid() })
        }
        #[cfg(not(target_os = "linux"))]
        ThreadNumber()
    }

    /// Moves the thread off the core of the calling one, if it may run on another. Afterwards it may run where it might before.
    pub(crate) fn send_away(self) {
        #[cfg(target_os = "linux")]
        {
            let size = size_of::<libc::cpu_set_t>();
            // SAFETY: a set of cores is an array of bits, for which zeros are valid; the calls read and write one such set
            // each, of the size that they are told, and fail for a thread that is gone; a core is a bit of the set once it
            // has been compared with the number of bits.
            unsafe {
                let mut allowed: libc::cpu_set_t = std::mem::zeroed();
                if libc::sched_getaffinity(self.0, size, &mut allowed) != 0 {
                    return;
                }
                let mut others = allowed;
                match usize::try_from(libc::sched_getcpu()) {
                    Ok(here) if here < 8 * size => libc::CPU_CLR(here, &mut others),
                    _ => return,
                }
                let elsewhere = libc::CPU_COUNT(&others);
                if elsewhere > 0 && elsewhere < libc::CPU_COUNT(&allowed) {
                    libc::sched_setaffinity(self.0, size, &others);
                    libc::sched_setaffinity(self.0, size, &allowed);
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// The cores that a thread may run on.
    fn allowed(thread: ThreadNumber) -> Vec<usize> {
        // SAFETY: as in `send_away`.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(thread.0, size_of::<libc::cpu_set_t>(), &mut set), 0);
            (0..8 * size_of::<libc::cpu_set_t>()).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
        }
    }

    #[test]
    fn a_thread_that_was_sent_away_may_run_where_it_might_before() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let stop = &stop;
            scope.spawn(move || {
                sender.send(ThreadNumber::mine()).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            });
            let thread = receiver.recv().unwrap();
            let before = allowed(thread);
            for _ in 0..100 {
                thread.send_away();
                assert_eq!(allowed(thread), before);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
