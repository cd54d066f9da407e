//! A connection that is lent for one response.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::keep::{Http1, Kept, Key};
use super::pool::Pool;

/// Holds a connection while a response is read from it. [`Lease::done`] gives it back; dropping
/// it undone closes an HTTP/1.1 connection, whose stream then stands at an unknown place.
#[derive(Default)]
pub struct Lease(Option<Held>);

struct Held {
    pool: Arc<Pool>,
    key: Key,
    kept: Kept<Http1>,
}

impl Lease {
    pub(super) fn of(pool: &Arc<Pool>, key: &Key, kept: Kept<Http1>) -> Lease {
        Lease(Some(Held {
            pool: pool.clone(),
            key: key.clone(),
            kept,
        }))
    }

    /// What is lent; an HTTP/2 connection is not.
    pub(super) fn kept(&mut self) -> Option<&mut Kept<Http1>> {
        self.0.as_mut().map(|held| &mut held.kept)
    }

    /// Polls what hangs on the connection, and the connection with it.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waits: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.0 {
            Some(held) => held.kept.drive.poll(cx, waits),
            None => waits(cx),
        }
    }

    /// The connection is driven from now on whether or not anyone polls.
    pub fn let_go(&mut self) {
        if let Some(held) = &mut self.0 {
            held.kept.drive.let_go();
        }
    }

    /// The response was read to its end and the request was sent to its end: the connection can
    /// carry the next one.
    pub fn done(mut self) {
        if let Some(held) = self.0.take() {
            held.pool.keep.keep_http1(held.key, held.kept);
        }
    }

    /// The connection is no longer HTTP: it lives as long as its upgraded stream.
    pub fn upgraded(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.kept.drive.end();
        }
    }
}
