//! What a record of the audit log costs, from the append to the commit of its outcome: processor time of the whole
//! process, by the number of those who append at once. `cargo bench --bench audit`. Prints, asserts nothing.
//!
//! The log lies on the disk of the build folder. Most of the cost is the kernel's, of each group's write, so it
//! changes with how quick that disk is: compare two builds by runs in turn.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made says so")]

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use tailkeep::audit::Outcome;
use tailkeep::audit::log::Log;

mod made;
use made::record;

const RECORDS: u32 = 4_000;

/// Time of the processor that this process took, in microseconds.
fn processor_us() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
        .sum()
}

async fn append(log: &Log, clients: u32) {
    let tasks = (0..clients).map(|client| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in (client..RECORDS).step_by(clients as usize) {
                let id = log.append(record(number)).await.unwrap();
                let outcome = Outcome {
                    status: "SELECT 1".to_owned(),
                    ..Outcome::default()
                };
                log.finish(id, outcome);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    log.flush().await.unwrap();
}

fn per_record(time: Duration) -> u128 {
    time.as_nanos() / u128::from(RECORDS)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let began = Instant::now();
    for number in 0..RECORDS {
        std::hint::black_box(record(number));
    }
    println!("{} ns of each are the making of it", per_record(began.elapsed()));
    for clients in [1, 8, 32] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let log = Log::open(&folder.path().join("audit.db")).unwrap();
        let (began, before) = (Instant::now(), processor_us());
        runtime.block_on(append(&log, clients));
        let (took, spent) = (began.elapsed(), processor_us() - before);
        let rate = f64::from(RECORDS) / took.as_secs_f64();
        let each = spent as f64 / f64::from(RECORDS);
        println!("{clients:>3} at once: {each:.1} µs of the processor a record, {rate:.0} records a second");
    }
}
