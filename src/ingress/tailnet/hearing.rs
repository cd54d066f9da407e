//! Whether tailscaled's changes are heard.
//!
//! Who is behind an open connection may have become another while they are not. A restart of
//! tailscaled is short, and its connections live over it; what is not heard for longer ends them.

use std::time::Duration;

use tokio::sync::watch;

/// How long open connections live on while tailscaled is not heard.
pub const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// Nothing is heard at first.
#[derive(Debug, Default)]
pub struct Hearing(watch::Sender<bool>);

impl Hearing {
    pub fn set(&self, is_heard: bool) {
        self.0
            .send_if_modified(|before| std::mem::replace(before, is_heard) != is_heard);
    }

    pub fn is_heard(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when nothing was heard for so long without a break.
    pub async fn lost_for(&self, time: Duration) {
        let mut heard = self.0.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = heard.wait_for(|heard| !heard).await;
            if tokio::time::timeout(time, heard.wait_for(|heard| *heard))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const FOR_EVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_is_not_heard_for_long_is_lost() {
        let hearing = Hearing::default();
        hearing.lost_for(SHORT).await;
        hearing.set(true);
        let (mut long, mut short) = (
            Box::pin(hearing.lost_for(FOR_EVER)),
            Box::pin(hearing.lost_for(SHORT)),
        );
        assert!(futures_util::poll!(&mut short).is_pending());
        hearing.set(false);
        tokio::select! {
            () = &mut long => panic!("not for so long"),
            () = &mut short => {}
        }
        // What is heard again in time is not lost.
        hearing.set(true);
        assert!(futures_util::poll!(&mut long).is_pending());
        assert!(hearing.is_heard());
    }
}
