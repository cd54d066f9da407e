//! Questions in vain: they slow questions down, and deny nobody.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ports that turned out to be nobody's, in [`MISSES_WINDOW`]: each holds up tailscaled for 180 ms.
/// An agent makes some by closing what it just opened. Beyond them a connection is asked for only
/// after it has stayed for a while of up to [`PATIENCE`], which its peer cannot foresee.
pub const MISSES_MAX: u32 = 16;
/// See [`MISSES_MAX`].
pub const MISSES_WINDOW: Duration = Duration::from_secs(10);
/// See [`MISSES_MAX`].
pub const PATIENCE: Duration = Duration::from_millis(250);

/// How long no port is asked for after one that was nobody's, so that half of tailscaled's time is
/// left for the rest of its work.
pub const MISS_PAUSE: Duration = Duration::from_millis(180);

/// Counts them, in windows.
#[derive(Debug, Default)]
pub struct Misses(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    misses: u32,
}

impl Misses {
    /// How long a connection has to stay before it is asked for; `None` where it may be asked for
    /// at once.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let mut window = self.window();
        if window
            .as_ref()
            .is_some_and(|own| now.saturating_duration_since(own.began) > MISSES_WINDOW)
        {
            *window = None;
        }
        let many = window.as_ref().is_some_and(|own| own.misses >= MISSES_MAX);
        many.then(|| PATIENCE.mul_f64(chance()))
    }

    /// A question was in vain.
    pub fn count(&self) {
        let mut window = self.window();
        let window = window.get_or_insert_with(|| Window {
            began: Instant::now(),
            misses: 0,
        });
        window.misses = window.misses.saturating_add(1);
    }

    fn window(&self) -> MutexGuard<'_, Option<Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between 0 and 1, not to be foreseen.
fn chance() -> f64 {
    let mut byte = [u8::MAX];
    // Without randomness, the longest.
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / f64::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_make_the_next_wait_until_the_window_is_over() {
        let misses = Misses::default();
        for _ in 0..MISSES_MAX {
            assert_eq!(misses.wait(Instant::now()), None);
            misses.count();
        }
        assert!(misses.wait(Instant::now()).is_some_and(|wait| wait <= PATIENCE));
        let later = Instant::now() + MISSES_WINDOW + Duration::from_millis(1);
        assert_eq!(misses.wait(later), None);
    }
}
