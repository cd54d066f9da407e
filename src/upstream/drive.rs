//! An HTTP/1.1 connection that is driven by whoever uses it: the task of the agent's connection sends, reads and judges,
//! and no other task has to be woken for a request and for its answer.
//!
//! The future of hyper's connection is polled beside what waits for it, by one waker. What wakes that waker in between is
//! looked at before the task is left, so that neither of the two schedules the task anew for the other's sake.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio::task::AbortHandle;

/// How often in a row the two are looked at before others have their turn.
const TURNS_MAX: usize = 32;

/// Nobody looks: a wake goes to the task.
const LEFT: u8 = 0;
/// Being looked at.
const LOOKED_AT: u8 = 1;
/// Was woken meanwhile, and is looked at once more.
const AGAIN: u8 = 2;

/// The connection's own end; what broke it shows at what waits for it.
pub(super) type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection, and who drives it.
pub(super) struct Drive {
    /// `None` when it has ended, or a task of its own drives it.
    connection: Option<Connection>,
    task: Option<AbortHandle>,
    waker: Waker,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let looked_at = self
            .state
            .compare_exchange(LOOKED_AT, AGAIN, Ordering::AcqRel, Ordering::Acquire);
        if looked_at == Err(LEFT) {
            self.task.wake();
        }
    }
}

impl Drive {
    pub(super) fn new(connection: Connection) -> Drive {
        let bell = Arc::new(Bell::default());
        Drive {
            connection: Some(connection),
            task: None,
            waker: bell.clone().into(),
            bell,
        }
    }

    /// Of a connection that a task drives.
    pub(super) fn by(task: AbortHandle) -> Drive {
        Drive {
            connection: None,
            task: Some(task),
            waker: Waker::noop().clone(),
            bell: Arc::default(),
        }
    }

    /// Polls the connection, and `waits`, which hangs on it, until neither gets further.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waits: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.connection.is_none() {
            return waits(cx);
        }
        self.bell.task.register(cx.waker());
        for _ in 0..TURNS_MAX {
            self.bell.state.store(LOOKED_AT, Ordering::Release);
            let mut own = Context::from_waker(&self.waker);
            if let Some(connection) = &mut self.connection
                && connection.as_mut().poll(&mut own).is_ready()
            {
                self.connection = None;
            }
            if let Poll::Ready(got) = waits(&mut own) {
                self.bell.state.store(LEFT, Ordering::Release);
                return Poll::Ready(got);
            }
            let left = self
                .bell
                .state
                .compare_exchange(LOOKED_AT, LEFT, Ordering::AcqRel, Ordering::Acquire);
            if left.is_ok() {
                return Poll::Pending;
            }
        }
        self.bell.state.store(LEFT, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Nobody waits: a wake goes nowhere.
    pub(super) fn rest(&mut self) {
        self.bell.task.take();
    }

    /// Has a task of its own drive it to its end, for what outlives the answer's way down: an upgraded stream, a
    /// body that still goes up.
    pub(super) fn let_go(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.task = Some(tokio::spawn(connection).abort_handle());
        }
    }

    /// Closes the connection.
    pub(super) fn end(self) {
        if let Some(task) = self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::<Task>::default();
        (task.clone(), task.into())
    }

    /// How often a connection was polled, and its waker.
    type Seen = Arc<Mutex<(usize, Option<Waker>)>>;

    /// A connection that counts its polls and leaves its waker.
    fn connection() -> (Connection, Seen) {
        let seen = Seen::default();
        let own = seen.clone();
        let connection = poll_fn(move |cx| {
            let mut seen = own.lock().unwrap();
            seen.0 += 1;
            seen.1 = Some(cx.waker().clone());
            Poll::Pending
        });
        (Box::pin(connection), seen)
    }

    #[test]
    fn what_the_two_say_to_each_other_does_not_wake_the_task() {
        let ((task, waker), (connection, seen)) = (task(), connection());
        let mut drive = Drive::new(connection);
        // It asks the connection for something, and has it when the connection was looked at again.
        let answer = |_: &mut Context<'_>| match &*seen.lock().unwrap() {
            (1, waker) => {
                waker.as_ref().unwrap().wake_by_ref();
                Poll::Pending
            }
            (polls, _) => Poll::Ready(*polls),
        };
        let got = drive.poll(&mut Context::from_waker(&waker), answer);
        assert_eq!(got, Poll::Ready(2));
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_comes_later_wakes_the_task_that_waits_and_nobody_at_rest() {
        let ((task, waker), (connection, seen)) = (task(), connection());
        let mut drive = Drive::new(connection);
        let wake = || seen.lock().unwrap().1.clone().unwrap().wake();
        let nothing = |_: &mut Context<'_>| Poll::<()>::Pending;
        assert!(drive.poll(&mut Context::from_waker(&waker), nothing).is_pending());
        wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert!(drive.poll(&mut Context::from_waker(&waker), nothing).is_pending());
        drive.rest();
        wake();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_connection_that_never_rests_lets_others_have_their_turn() {
        let (task, waker) = task();
        let polls = Arc::new(AtomicUsize::new(0));
        let own = polls.clone();
        let mut drive = Drive::new(Box::pin(poll_fn(move |cx| {
            own.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        let nothing = |_: &mut Context<'_>| Poll::<()>::Pending;
        assert!(drive.poll(&mut Context::from_waker(&waker), nothing).is_pending());
        assert_eq!(polls.load(Ordering::Relaxed), TURNS_MAX);
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "it is looked at again");
    }

    #[tokio::test]
    async fn a_connection_that_is_let_go_runs_until_it_is_ended() {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let mut drive = Drive::new(Box::pin(async move {
            let _ = tell.send(());
            std::future::pending::<()>().await;
        }));
        drive.let_go();
        told.await.unwrap();
        let task = drive.task.clone().unwrap();
        assert!(!task.is_finished());
        drive.end();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
