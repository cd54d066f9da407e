//! Whether tailscaled's changes are heard.
//!
//! Who is behind an open connection may have become another while they are not. A restart of
//! tailscaled is short, and its connections live over it; what is not heard for longer ends them.

use std::time::Duration;

use tokio::sync::watch;

/// How long open connections live on while tailscaled is not heard.
pub const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// Nothing is heard at first.
#[derive(Debug)]
pub struct Hearing {
    is_heard: watch::Sender<bool>,
    unheard_max: Duration,
}

impl Default for Hearing {
    fn default() -> Self {
        Hearing::lost_after(UNHEARD_MAX)
    }
}

impl Hearing {
    fn lost_after(unheard_max: Duration) -> Self {
        Hearing {
            is_heard: watch::Sender::new(false),
            unheard_max,
        }
    }

    pub fn set(&self, is_heard: bool) {
        self.is_heard
            .send_if_modified(|before| std::mem::replace(before, is_heard) != is_heard);
    }

    pub fn is_heard(&self) -> bool {
        *self.is_heard.borrow()
    }

    /// Ends when nothing was heard for [`UNHEARD_MAX`] without a break.
    pub async fn lost(&self) {
        let mut heard = self.is_heard.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = heard.wait_for(|heard| !heard).await;
            if tokio::time::timeout(self.unheard_max, heard.wait_for(|heard| *heard))
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
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::ingress::tailnet::directory::{By, Directory};
    use crate::ingress::tailnet::localapi::{LocalApi, Status};
    use crate::sys::TcpState;

    const SHORT: Duration = Duration::from_millis(50);
    const FOR_EVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_is_not_heard_for_long_is_lost() {
        let hearing = Hearing::lost_after(SHORT);
        hearing.lost().await;
        hearing.set(true);
        let mut short = Box::pin(hearing.lost());
        assert!(futures_util::poll!(&mut short).is_pending());
        hearing.set(false);
        short.await;
        // What is heard again in time is not lost.
        let hearing = Hearing::lost_after(FOR_EVER);
        let mut long = Box::pin(hearing.lost());
        assert!(futures_util::poll!(&mut long).is_pending());
        hearing.set(true);
        assert!(futures_util::poll!(&mut long).is_pending());
        assert!(hearing.is_heard());
    }

    /// A directory whose tailscaled knows one node.
    fn directory(folder: &std::path::Path, hearing: Hearing) -> Arc<Directory> {
        let socket = folder.join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let node = json!({
            "Node": { "StableID": "n-ci", "Name": "ci-1.lab.ts.net.", "Addresses": ["100.64.0.2/32"] },
            "UserProfile": { "LoginName": "ann@example.com" },
        });
        let told = move || {
            let node = axum::Json(node.clone());
            async move { node }
        };
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(told)).await });
        Directory::with(LocalApi::new(&socket).unwrap(), hearing)
    }

    #[tokio::test]
    async fn an_open_connection_ends_where_tailscaled_is_not_heard_for_long() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let status: Status = serde_json::from_value(json!({
            "BackendState": "Running", "TUN": true, "TailscaleIPs": ["100.64.0.1"],
            "Self": { "ID": "n-gw", "DNSName": "gw.lab.ts.net." },
        }))
        .unwrap();
        let (peer, local): (SocketAddr, IpAddr) =
            ("100.64.0.2:50000".parse().unwrap(), "100.64.0.1".parse().unwrap());
        for (limit, ends) in [(FOR_EVER, false), (SHORT, true)] {
            let folder = tempfile::tempdir().unwrap();
            let directory = directory(folder.path(), Hearing::lost_after(limit));
            directory.changed(&status);
            let met = directory.meet((peer, local), By::Peer, &|| TcpState::Alive);
            let mut gone = Box::pin(directory.until_gone(met.await.unwrap()));
            assert!(futures_util::poll!(&mut gone).is_pending());
            directory.lost();
            let wait = if ends { Duration::from_secs(20) } else { SHORT * 4 };
            assert_eq!(tokio::time::timeout(wait, gone).await.is_ok(), ends);
        }
    }
}
