//! WireGuard's timers, on a clock that is put forward: the listener and `run`'s own tunnel, both over
//! real sockets. boringtun asks the time since boot, and a time namespace shifts that clock alone,
//! for a process of one thread; hence no test harness here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests say what they expect")]

mod ends;
mod stories;

use std::os::fd::AsFd as _;

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `CLONE_NEWTIME` of `linux/sched.h`, which nix does not name.
const CLONE_NEWTIME: i32 = 0x80;

/// The time since boot, as this process sees it.
pub struct Clock {
    ahead_s: u64,
}

impl Clock {
    /// `None` where the machine has no time namespaces, or forbids them.
    fn new() -> Option<Clock> {
        let mut clock = Clock { ahead_s: 0 };
        let shifted = clock.shift().or_else(|_| {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            clock.shift()
        });
        shifted
            .inspect_err(|why| eprintln!("SKIPPED: no clock of one's own here: {why}"))
            .ok()
            .map(|()| clock)
    }

    fn shift(&mut self) -> std::io::Result<()> {
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
        std::fs::write(
            "/proc/self/timens_offsets",
            format!("boottime {} 0\n", self.ahead_s),
        )?;
        let next = std::fs::File::open("/proc/self/ns/time_for_children")?;
        move_into_link_name_space(next.as_fd(), Some(LinkNameSpaceType::Time))?;
        Ok(())
    }

    /// Puts the clock forward. No timer of the runtime sees it: those run by the other clock.
    pub fn forward(&mut self, seconds: u64) {
        self.ahead_s += seconds;
        self.shift().unwrap();
    }
}

/// As the test runners ask: `--list` names the tests, a name runs one, nothing runs all.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let stories = stories::ALL;
    if has("--list") {
        for (name, _) in stories.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let chosen = |name: &str| {
        wanted.is_none_or(|wanted| {
            if has("--exact") {
                name == wanted
            } else {
                name.contains(wanted.as_str())
            }
        })
    };
    let mut passed = 0;
    for (name, story) in stories.iter().filter(|(name, _)| chosen(name)) {
        let Some(clock) = Clock::new() else { break };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(story(clock));
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}
