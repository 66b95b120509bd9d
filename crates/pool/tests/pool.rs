//! What the pool promises: every part exactly once, panics carried, nesting, parking and waking, clean ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use cotangent_pool::{Pool, split};

/// Runs `n_parts` parts and asserts that each was called once.
fn check_once(pool: &Pool, n_parts: usize) {
    let calls: Vec<AtomicUsize> = (0..n_parts).map(|_| AtomicUsize::new(0)).collect();
    pool.run(n_parts, &|part| {
        calls[part].fetch_add(1, Ordering::Relaxed);
    });
    for (part, calls) in calls.iter().enumerate() {
        assert_eq!(calls.load(Ordering::Relaxed), 1, "part {part} of {n_parts}");
    }
}

#[test]
fn every_part_runs_once_for_any_count() {
    for n_threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(n_threads);
        assert_eq!(pool.n_threads(), n_threads.max(1));
        for n_parts in 0..20 {
            check_once(&pool, n_parts);
        }
    }
}

/// The threads that ran the parts of one run; part 0 waits until parts 1 and 2 have begun, if it is told to.
fn threads_of(pool: &Pool, n_parts: usize, waits: bool) -> Vec<ThreadId> {
    let threads: Vec<Mutex<Option<ThreadId>>> = (0..n_parts).map(|_| Mutex::new(None)).collect();
    pool.run(n_parts, &|part| {
        *threads[part].lock().unwrap() = Some(thread::current().id());
        let start = Instant::now();
        while waits && part == 0 && threads[1..3].iter().any(|thread| thread.lock().unwrap().is_none()) {
            assert!(start.elapsed() < Duration::from_secs(60), "no worker came");
            thread::yield_now();
        }
    });
    threads.into_iter().map(|thread| thread.into_inner().unwrap().unwrap()).collect()
}

#[test]
fn parts_are_assigned_by_number() {
    let pool = Pool::new(3);
    let before = threads_of(&pool, 9, true);
    for round in 0..200 {
        let threads = threads_of(&pool, 9, round % 2 == 0);
        assert_eq!(threads[0], thread::current().id());
        assert_eq!(threads[..6], threads[3..]);
        if round % 2 == 0 {
            assert_eq!(threads, before);
        } else {
            assert!((0..3).all(|part| threads[part] == before[part] || threads[part] == before[0]));
        }
    }
    assert!(before[0] != before[1] && before[1] != before[2] && before[0] != before[2]);
}

#[test]
fn the_caller_does_what_a_late_worker_has_not_begun() {
    let pool = Pool::new(2);
    let taken_over = (0..100).any(|_| {
        // The worker goes to sleep, and wakes more slowly than the caller does two parts of nothing.
        thread::sleep(Duration::from_millis(1));
        let threads = threads_of(&pool, 2, false);
        threads[0] == threads[1]
    });
    assert!(taken_over);
}

#[test]
fn thousands_of_runs_with_parking_in_between() {
    let pool = Pool::new(2);
    let sum = AtomicUsize::new(0);
    let mut expected = 0;
    for round in 0..4000 {
        let n_parts = round % 5;
        pool.run(n_parts, &|part| {
            sum.fetch_add(part + 1, Ordering::Relaxed);
        });
        expected += n_parts * (n_parts + 1) / 2;
        assert_eq!(sum.load(Ordering::Relaxed), expected, "round {round}");
        // Around the spin time, where a wake-up could get lost, and sometimes far beyond it.
        match round % 40 {
            0 => thread::sleep(Duration::from_micros(300)),
            1..=8 => spin_for(Duration::from_micros(45 + (round as u64 % 13))),
            _ => {}
        }
    }
}

#[test]
fn workers_that_take_no_part_may_sleep_through_runs() {
    let pool = Pool::new(4);
    for round in 0..200 {
        check_once(&pool, 2);
        if round % 10 == 0 {
            thread::sleep(Duration::from_millis(1));
            check_once(&pool, 4);
        }
    }
}

#[test]
fn oversubscribed_pools_make_progress() {
    let pool = Pool::new(8);
    for round in 0..500 {
        check_once(&pool, 8 + round % 3);
    }
}

#[test]
fn a_panic_reaches_the_caller_after_all_parts_ran() {
    for n_threads in [1, 2, 4] {
        let pool = Pool::new(n_threads);
        for bad in 0..6 {
            let n_finished = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(6, &|part| {
                    if part == bad {
                        std::panic::resume_unwind(Box::new(part));
                    }
                    n_finished.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let payload = result.expect_err("the panic must be resumed");
            assert_eq!(payload.downcast_ref::<usize>(), Some(&bad));
            assert_eq!(n_finished.load(Ordering::Relaxed), 5);
            check_once(&pool, 6);
        }
    }
}

#[test]
fn several_panics_resume_one() {
    let pool = Pool::new(2);
    let result = catch_unwind(AssertUnwindSafe(|| {
        pool.run(8, &|part| std::panic::resume_unwind(Box::new(part)));
    }));
    assert!(result.is_err());
    check_once(&pool, 8);
}

#[test]
fn nested_runs_are_inline() {
    let pool = Pool::new(2);
    let n_calls = AtomicUsize::new(0);
    for _ in 0..100 {
        pool.run(4, &|_| {
            let outer = thread::current().id();
            pool.run(3, &|_| {
                assert_eq!(thread::current().id(), outer);
                n_calls.fetch_add(1, Ordering::Relaxed);
            });
        });
    }
    assert_eq!(n_calls.load(Ordering::Relaxed), 100 * 4 * 3);
}

#[test]
fn two_callers_share_a_pool_safely() {
    let pool = Pool::new(2);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..300).for_each(|round| check_once(&pool, round % 6)));
        }
    });
}

#[test]
fn pools_end_whether_spinning_or_parked() {
    for round in 0..60 {
        let pool = Pool::new(1 + round % 4);
        if round % 3 > 0 {
            check_once(&pool, 4);
        }
        if round % 2 == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn split_covers_in_order_and_aligned() {
    for len in [0, 1, 7, 16, 31, 64, 100, 1023] {
        for n_parts in 1..9 {
            for align in [1, 4, 16, 64] {
                let mut at = 0;
                let mut sizes = vec![];
                for part in 0..n_parts {
                    let range = split(len, n_parts, part, align);
                    assert_eq!(range.start, at, "{len} {n_parts} {part} {align}");
                    assert!(range.start.is_multiple_of(align) || range.is_empty());
                    sizes.push(range.len().div_ceil(align));
                    at = range.end;
                }
                assert_eq!(at, len);
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            }
        }
    }
    assert_eq!(split(10, 0, 0, 0), 0..10);
}

fn spin_for(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// While it is asked for, every thread's share of a run is noted, on the thread that did it.
#[test]
fn shares_are_noted_while_asked_for() {
    let pool = Pool::new(2);
    pool.run(2, &|_| {});
    assert_eq!(pool.record(true), [], "nobody asked before");
    let before = std::time::Instant::now();
    let both = std::sync::Barrier::new(2);
    pool.run(2, &|_| _ = both.wait());
    let after = std::time::Instant::now();
    let mut spans = pool.record(false);
    spans.sort_by_key(|span| span.thread);
    assert_eq!(spans.iter().map(|span| span.thread).collect::<Vec<_>>(), [0, 1]);
    assert!(spans.iter().all(|span| before <= span.start && span.start <= span.end && span.end <= after), "{spans:?}");
    pool.run(2, &|_| {});
    assert_eq!(pool.record(false), [], "nobody asks any more");
}
