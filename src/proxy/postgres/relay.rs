//! The loop between the two ends: reads, writes, rulings and cancels, none waiting for another.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::watch;

use super::lasting::Lasting;
use super::path::{CHANGED, PathNeed};
use super::preview::{Event, Previews};
use super::queue::Queue;
use super::start::{Connected, dial};
use super::{Context, PREPARED_BYTES_MAX, ROOM_STEP_BYTES, STATEMENTS_MAX, ServeError, Wait, Wire};
use crate::audit::Outcome;
use crate::bad_input;
use crate::identity::budget::Room;
use crate::protocol::postgres::PgSession;
use crate::protocol::postgres::session::Config;
use crate::protocol::postgres::wire::{self, WireError};
use crate::protocol::{Output, Side};
use crate::verdict::{Action, Cause, Permit, Refusal};

/// Bytes read at once from a side, at most.
const READ_BYTES: usize = 64 << 10;
/// Room for less is not read into: a buffer holds many short messages before it is followed by another.
const READ_BYTES_MIN: usize = 4 << 10;

const CANCEL_CODE: [u8; 4] = [4, 210, 22, 46];

/// One session between its two ends.
struct Relay<'a> {
    context: &'a Context<'a>,
    connected: &'a Ends,
    session: PgSession,
    to_agent: Queue,
    to_server: Queue,
    ruling: Option<Wait<'a, Result<Permit, Refusal>>>,
    /// What is being asked, and how many policies had come into force when it was.
    asked: Option<(Arc<Action>, u64)>,
    lasting: Lasting,
    rooms: Vec<Room>,
    reloads: watch::Receiver<u64>,
    path: PathNeed,
    cancelling: Option<Wait<'a, ()>>,
    previews: Previews<'a>,
    closing: bool,
    server_gone: bool,
}

/// What of [`Connected`] stays while the session runs.
pub(super) struct Ends {
    pub(super) permit: Permit,
    ticket: super::cancel::Ticket,
    pub(super) process: i32,
    key: Bytes,
}

/// Carries a session until one side ends it.
pub(super) async fn relay(
    agent: Box<dyn Wire>,
    connected: Connected,
    context: &Context<'_>,
) -> Result<(), ServeError> {
    let began = Instant::now();
    let config = Config {
        grammar: context.gateway.grammar(&connected.database, &connected.user),
        endpoint: context.endpoint.key.clone(),
        credential: connected.permit.credential().cloned(),
        message_bytes_max: context.limits.message_bytes_max,
        statement_bytes_max: context.limits.statement_bytes_max,
        statements_max: STATEMENTS_MAX,
        prepared_bytes_max: PREPARED_BYTES_MAX,
        help: context.help.clone(),
    };
    let names = (connected.user.clone(), connected.database.clone());
    let ends = Ends {
        permit: connected.permit,
        ticket: connected.ticket,
        process: connected.process,
        key: connected.key,
    };
    let mut relay = Relay {
        context,
        connected: &ends,
        session: PgSession::new(config, connected.status, began).with_path(connected.path),
        to_agent: Queue::default(),
        to_server: Queue::default(),
        ruling: None,
        asked: None,
        lasting: Lasting::default(),
        rooms: Vec::new(),
        reloads: context.gateway.reloads(),
        path: PathNeed::new(connected.path_asked),
        cancelling: None,
        previews: Previews::new(context, &ends, names),
        closing: false,
        server_gone: false,
    };
    relay.to_agent.push(connected.greeting);
    let (mut agent_reads, mut agent_writes) = split(agent);
    let (mut server_reads, mut server_writes) = split(connected.upstream);
    let result = relay
        .run(
            (&mut agent_reads, &mut agent_writes),
            (&mut server_reads, &mut server_writes),
        )
        .await;
    // Withdrawn, if something was being asked.
    drop(relay.ruling.take());
    relay.previews.withdraw(&mut relay.session);
    relay.session.end(Instant::now());
    while let Some(output) = relay.session.poll_output() {
        if let Output::Finish(record, outcome) = output {
            context.gateway.finish(record, outcome);
        }
    }
    let outcome = Outcome {
        status: match &result {
            Ok(()) => "closed".to_owned(),
            Err(error) => format!("broken: {error}"),
        },
        bytes_up: relay.to_server.written,
        bytes_down: relay.to_agent.written,
        took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    context.gateway.finish(ends.permit.record(), outcome);
    if let Err(error) = &result {
        let code = match error {
            ServeError::Wire(WireError::Long | WireError::LongAnswer) => "54000",
            ServeError::Wire(_) => "08P01",
            ServeError::Full => "53200",
            _ => "57P01",
        };
        let said = wire::error("FATAL", code, &told(error));
        // The connection ends; whether the agent still reads is its own affair.
        let _ = tokio::time::timeout(FAREWELL, agent_writes.write_all(&said)).await;
    }
    let _ = tokio::time::timeout(FAREWELL, agent_writes.shutdown()).await;
    let _ = tokio::time::timeout(FAREWELL, server_writes.shutdown()).await;
    result
}

/// Time that the last words to a side may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the agent may know of the end.
fn told(error: &ServeError) -> String {
    match error {
        ServeError::Io(_) => "the connection to the server broke".to_owned(),
        other => other.to_string(),
    }
}

type Halves<'a> = (&'a mut ReadHalf<Box<dyn Wire>>, &'a mut WriteHalf<Box<dyn Wire>>);

impl Relay<'_> {
    async fn run(&mut self, agent: Halves<'_>, server: Halves<'_>) -> Result<(), ServeError> {
        let idle = Duration::from_secs(self.context.limits.idle_s);
        let (mut from_agent, mut from_server) = (BytesMut::new(), BytesMut::new());
        let now = Instant::now;
        let mut silence = pin!(tokio::time::sleep(idle));
        loop {
            let heard = self.to_agent.bytes == 0 && !self.to_agent.unflushed;
            if heard && (self.server_gone || self.closing && self.to_server.bytes == 0) {
                return Ok(());
            }
            for buffer in [&mut from_agent, &mut from_server] {
                if buffer.capacity() - buffer.len() < READ_BYTES_MIN {
                    buffer.reserve(READ_BYTES);
                }
            }
            silence.as_mut().reset(tokio::time::Instant::now() + idle);
            let (hears_server, hears_agent) = self.hears();
            let asking = self.ruling.is_some();
            let mut news = !asking;
            tokio::select! {
                biased;
                written = self.to_agent.carry(agent.1) => written?,
                written = self.to_server.carry(server.1), if !self.server_gone => written?,
                decided = answer(&mut self.ruling) => {
                    self.ruling = None;
                    news = true;
                    let decided = self.decided(decided);
                    self.session.handle_ruling(decided, now());
                }
                () = reloaded(&mut self.reloads) => {
                    if let Some(refusal) = self.revoked() {
                        return Err(ServeError::Refused(refusal));
                    }
                }
                () = answer(&mut self.cancelling) => self.cancelling = None,
                event = self.previews.event() => self.previewing(event),
                () = self.connected.ticket.wake.notified() => self.cancel(),
                count = server.0.read_buf(&mut from_server), if hears_server => {
                    if count? == 0 { self.server_gone = true; }
                    else { self.session.handle_input(Side::Upstream, from_server.split().freeze(), now())?; }
                }
                count = agent.0.read_buf(&mut from_agent), if hears_agent => {
                    // Gone, or leaving: what is being asked for is withdrawn by dropping the future.
                    if count? == 0 { return Ok(()); }
                    news = true;
                    self.session.handle_input(Side::Agent, from_agent.split().freeze(), now())?;
                }
                () = &mut silence, if !asking => return Err(ServeError::Late),
            }
            self.carry_out().await;
            while self.has_room() && self.session.advance(now())? {
                self.carry_out().await;
            }
            self.carry_out().await;
            self.previews.follow(&mut self.session);
            self.make_room()?;
            if news && self.session.is_judging() && self.session.is_abandoned() {
                return Ok(());
            }
        }
    }

    /// What an agent sends can fill both queues: refusals go back to it.
    fn has_room(&self) -> bool {
        !self.to_server.is_full() && !self.to_agent.is_full()
    }

    /// Whether the server is read, and whether the agent is.
    fn hears(&self) -> (bool, bool) {
        let server = !self.server_gone && !self.to_agent.is_full();
        (
            server,
            self.has_room() && !self.closing && self.session.wants_agent(),
        )
    }

    fn cancel(&mut self) {
        if self.session.is_judging() {
            self.ruling = None;
            self.previews.withdraw(&mut self.session);
            let trying = self.session.is_trying();
            self.session.cancel_judging(Instant::now());
            if !trying {
                return;
            }
        }
        self.cancel_server();
    }

    fn cancel_server(&mut self) {
        let (context, ends) = (self.context, self.connected);
        let time = Duration::from_millis(context.limits.connect_ms);
        self.cancelling = Some(Box::pin(async move {
            let send = cancel(&ends.permit, ends.process, &ends.key, context);
            // A cancel is a wish: that it could not be sent is no reason to end the session.
            let _ = tokio::time::timeout(time, send).await;
        }));
    }

    /// The gate's answer, if it holds under the policy of now: one that came into force between the
    /// judgement and here was told to nobody.
    fn decided(&mut self, ruling: Result<Permit, Refusal>) -> Result<Permit, Refusal> {
        let permit = ruling?;
        let asked = self.asked.take();
        let changed = || {
            let (action, before) = asked.as_ref()?;
            let gateway = self.context.gateway;
            let is_new = *self.reloads.borrow() != *before;
            let still = is_new.then(|| gateway.still(action, permit.approved_by()))?;
            // What was permitted before it in the same text goes up together with it.
            still.err().or_else(|| self.revoked_lasting())
        };
        let changed = changed();
        if let Some(refusal) = changed.or_else(|| self.lacks_path()) {
            let outcome = Outcome {
                status: "NOT SENT".to_owned(),
                ..Outcome::default()
            };
            self.context.gateway.finish(permit.record(), outcome);
            return Err(refusal);
        }
        if let Some((action, _)) = asked {
            self.lasting.begin(&permit, action);
        }
        Ok(permit)
    }

    /// Takes room for what the connection holds, or gives it back.
    fn make_room(&mut self) -> Result<(), ServeError> {
        let kept = self.session.kept_bytes() + self.to_server.bytes + self.to_agent.bytes;
        let steps = kept / ROOM_STEP_BYTES;
        self.rooms.truncate(steps);
        while self.rooms.len() < steps {
            let room = self.context.gateway.room(ROOM_STEP_BYTES);
            self.rooms.push(room.ok_or(ServeError::Full)?);
        }
        Ok(())
    }

    fn lacks_path(&mut self) -> Option<Refusal> {
        let policy = *self.reloads.borrow();
        self.path.refused(policy, || self.context.gateway.names_schemas())
    }

    /// Why the policy of now ends this connection, if it does.
    fn revoked(&mut self) -> Option<Refusal> {
        if let Some(refusal) = self.lacks_path() {
            return Some(refusal);
        }
        self.revoked_lasting()
    }

    fn revoked_lasting(&self) -> Option<Refusal> {
        let gateway = self.context.gateway;
        let unknown = || Refusal::new(Cause::NoRule, CHANGED);
        self.lasting
            .refused(unknown, |action, approved_by| gateway.still(action, approved_by))
    }

    /// Something befell a preview.
    fn previewing(&mut self, event: Event) {
        match event {
            Event::Begin(permit) => self.previews.begin(&mut self.session, &permit),
            Event::Stop(why) => {
                let trying = self.session.is_trying();
                self.session.stop_trial(why);
                if trying {
                    self.cancel_server();
                }
            }
        }
    }

    async fn carry_out(&mut self) {
        let gateway = self.context.gateway;
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Write(Side::Agent, bytes) => self.to_agent.push(bytes),
                Output::Write(Side::Upstream, bytes) => self.to_server.push(bytes),
                Output::Decide(action) => {
                    let action = Arc::from(action);
                    self.asked = Some((Arc::clone(&action), *self.reloads.borrow()));
                    let preview = self.previews.offer(&self.session, &action);
                    self.ruling = Some(Box::pin(async move {
                        match &preview {
                            Some(preview) => gateway.judge_shown(&action, preview).await,
                            None => gateway.judge(&action).await,
                        }
                    }));
                }
                Output::Finish(record, outcome) => {
                    self.lasting.end(record);
                    gateway.finish(record, outcome);
                }
                Output::Refused(summary, refusal) => {
                    bad_input::count(bad_input::Reader::Postgres, &"forbidden");
                    gateway.refused(&summary, refusal).await;
                }
                Output::Splice => {}
                Output::Close => self.closing = true,
            }
        }
    }
}

/// Waits for a new policy.
async fn reloaded(reloads: &mut watch::Receiver<u64>) {
    if reloads.changed().await.is_err() {
        pending().await
    }
}

/// The future's answer, if there is one; else none, ever.
async fn answer<T>(wait: &mut Option<Wait<'_, T>>) -> T {
    match wait {
        Some(wait) => wait.await,
        None => pending().await,
    }
}

/// Sends the server's own key on a connection of its own.
async fn cancel(permit: &Permit, process: i32, key: &[u8], context: &Context<'_>) -> Result<(), ServeError> {
    let (mut io, _) = dial(permit, context).await?;
    let mut packet = BytesMut::new();
    packet.put_u32(u32::try_from(12 + key.len()).unwrap_or(u32::MAX));
    packet.put_slice(&CANCEL_CODE);
    packet.put_i32(process);
    packet.put_slice(key);
    io.write_all(&packet).await?;
    io.flush().await?;
    // The server closes once the signal is sent.
    let _ = io.read_u8().await;
    Ok(())
}
