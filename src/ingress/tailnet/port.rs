//! Ports from which tailscaled dials for its peers, where it has no network device.
//!
//! It keeps which node a port of this machine stands for, by the port alone; but the kernel lets two
//! connections leave from one port if they go to two of ours. The answer for the second may be the
//! first one's node. So a port counts for one connection, and for a moment after it for none.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a port rests after its connection has ended here: tailscaled forgets it when both ends
/// are closed.
pub const REST: Duration = Duration::from_secs(1);

/// The ports that are taken, or rest.
#[derive(Debug, Default)]
pub struct Ports(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    taken: HashMap<SocketAddr, Option<Instant>>,
    /// When which of them was given back.
    resting: VecDeque<(Instant, SocketAddr)>,
}

/// A port that is one connection's.
#[derive(Debug)]
pub struct Port {
    of: Arc<Ports>,
    source: SocketAddr,
}

impl Ports {
    /// Takes a port, once it has rested; `None` while another connection has it.
    pub async fn take(this: &Arc<Ports>, source: SocketAddr) -> Option<Port> {
        loop {
            match this.try_take(source, Instant::now()) {
                Ok(()) => {
                    return Some(Port {
                        of: this.clone(),
                        source,
                    });
                }
                Err(None) => return None,
                Err(Some(rest)) => tokio::time::sleep(rest).await,
            }
        }
    }

    /// `Err` says how long it has to rest, `None` that it is another's.
    fn try_take(&self, source: SocketAddr, now: Instant) -> Result<(), Option<Duration>> {
        let mut state = self.state();
        while let Some((ended, rested)) = state.resting.front().copied()
            && now.saturating_duration_since(ended) >= REST
        {
            state.resting.pop_front();
            if state.taken.get(&rested) == Some(&Some(ended)) {
                state.taken.remove(&rested);
            }
        }
        match state.taken.get(&source) {
            None => {
                state.taken.insert(source, None);
                Ok(())
            }
            Some(None) => Err(None),
            Some(Some(ended)) => Err(Some(REST.saturating_sub(now.saturating_duration_since(*ended)))),
        }
    }

    fn give_back(&self, source: SocketAddr, now: Instant) {
        let mut state = self.state();
        state.taken.insert(source, Some(now));
        state.resting.push_back((now, source));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.of.give_back(self.source, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_connections_and_rests_after_it() {
        let (ports, now) = (Ports::default(), Instant::now());
        let [one, two] = ["10.78.0.1:40000", "10.78.0.2:40000"].map(|text| text.parse().unwrap());
        assert_eq!(ports.try_take(one, now), Ok(()));
        assert_eq!(ports.try_take(one, now + 2 * REST), Err(None));
        assert_eq!(ports.try_take(two, now), Ok(()));
        ports.give_back(one, now);
        assert_eq!(ports.try_take(one, now + REST / 4), Err(Some(REST * 3 / 4)));
        assert_eq!(ports.try_take(one, now + REST), Ok(()));
        assert_eq!(ports.try_take(one, now + REST), Err(None));
        ports.give_back(one, now + REST);
        ports.give_back(two, now + REST);
        let third = "10.78.0.3:1".parse().unwrap();
        assert_eq!(ports.try_take(third, now + 2 * REST), Ok(()));
        assert_eq!(ports.state().taken.len(), 1, "nothing stays of who has gone");
    }
}
