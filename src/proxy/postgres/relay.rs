//! The loop between the two ends: reads, writes, rulings and cancels, none waiting for another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::start::{Connected, dial};
use super::{Context, STATEMENTS_MAX, ServeError, Wait, Wire};
use crate::protocol::postgres::PgSession;
use crate::protocol::postgres::session::Config;
use crate::protocol::postgres::wire::{self, WireError};
use crate::protocol::{Output, Side};
use crate::verdict::{Permit, Refusal};

/// Bytes read at once from a side.
const READ_BYTES: usize = 64 << 10;
/// Bytes that may wait for a side before the other is no longer read.
const QUEUE_BYTES_MAX: usize = 1 << 20;

const CANCEL_CODE: [u8; 4] = [4, 210, 22, 46];

/// What waits to be written to a side.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    fn written(&mut self, count: usize) {
        self.bytes -= count;
        if let Some(front) = self.pieces.front_mut() {
            front.advance(count);
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }
}

type Ruling<'a> = Wait<'a, Result<Permit, Refusal>>;

/// Carries a session until one side ends it.
pub(super) async fn relay(
    agent: Box<dyn Wire>,
    connected: Connected,
    context: &Context<'_>,
) -> Result<(), ServeError> {
    let config = Config {
        grammar: context.gateway.grammar(&connected.database, &connected.user),
        endpoint: context.endpoint.key.clone(),
        credential: connected.permit.credential().cloned(),
        message_bytes_max: context.limits.message_bytes_max,
        statement_bytes_max: context.limits.statement_bytes_max,
        statements_max: STATEMENTS_MAX,
    };
    let mut session = PgSession::new(config, connected.status, Instant::now());
    let (mut agent_reads, mut agent_writes) = tokio::io::split(agent);
    let (mut server_reads, mut server_writes) = tokio::io::split(connected.upstream);
    let (mut to_agent, mut to_server) = (Queue::default(), Queue::default());
    to_agent.push(connected.greeting);
    let (mut from_agent, mut from_server) = (BytesMut::new(), BytesMut::new());
    let mut ruling: Option<Ruling<'_>> = None;
    let (mut closing, mut server_gone) = (false, false);
    let idle = Duration::from_secs(context.limits.idle_s);
    let permit = &connected.permit;
    let failed = loop {
        if closing && to_agent.bytes == 0 && to_server.bytes == 0 || server_gone && to_agent.bytes == 0 {
            break None;
        }
        from_agent.reserve(READ_BYTES);
        from_server.reserve(READ_BYTES);
        let now = Instant::now;
        let step = tokio::select! {
            biased;
            count = agent_writes.write(to_agent.front()), if to_agent.bytes > 0 => {
                to_agent.written(count?);
                if to_agent.bytes == 0 { agent_writes.flush().await?; }
                continue;
            }
            count = server_writes.write(to_server.front()), if to_server.bytes > 0 && !server_gone => {
                to_server.written(count?);
                if to_server.bytes == 0 { server_writes.flush().await?; }
                continue;
            }
            decided = async { match &mut ruling { Some(wait) => wait.await, None => std::future::pending().await } } => {
                ruling = None;
                session.handle_ruling(decided, now())
            }
            () = connected.ticket.wake.notified() => {
                if session.is_judging() {
                    ruling = None;
                    session.cancel_judging(now())
                } else {
                    let time = Duration::from_millis(context.limits.connect_ms);
                    // A cancel is a wish: that it could not be sent is no reason to end the session.
                    let _ = tokio::time::timeout(time, cancel(permit, connected.process, &connected.key, context)).await;
                    Ok(())
                }
            }
            count = server_reads.read_buf(&mut from_server), if !server_gone && to_agent.bytes < QUEUE_BYTES_MAX => {
                if count? == 0 { server_gone = true; Ok(()) }
                else { session.handle_input(Side::Upstream, from_server.split().freeze(), now()) }
            }
            count = agent_reads.read_buf(&mut from_agent), if !closing && session.wants_agent() && to_server.bytes < QUEUE_BYTES_MAX => {
                // Gone, or leaving: what is being asked for is withdrawn by dropping the future.
                if count? == 0 { break None; }
                let read = session.handle_input(Side::Agent, from_agent.split().freeze(), now());
                if session.is_judging() && session.is_abandoned() { break None; }
                read
            }
            () = tokio::time::sleep(idle), if ruling.is_none() => break Some(ServeError::Late),
        };
        if let Err(error) = step {
            break Some(error.into());
        }
        while let Some(output) = session.poll_output() {
            match output {
                Output::Write(Side::Agent, bytes) => to_agent.push(bytes),
                Output::Write(Side::Upstream, bytes) => to_server.push(bytes),
                Output::Decide(action) => {
                    let gateway = context.gateway;
                    ruling = Some(Box::pin(async move { gateway.judge(&action).await }));
                }
                Output::Finish(record, outcome) => context.gateway.finish(record, outcome),
                Output::Refused(summary, refusal) => context.gateway.refused(&summary, refusal).await,
                Output::Splice => {}
                Output::Close => closing = true,
            }
        }
    };
    drop(ruling);
    if let Some(error) = failed {
        let code = match &error {
            ServeError::Wire(WireError::Long) => "54000",
            ServeError::Wire(_) => "08P01",
            _ => "57P01",
        };
        // The connection ends; whether the agent still reads is its own affair.
        let _ = agent_writes
            .write_all(&wire::error("FATAL", code, &error.to_string()))
            .await;
        let _ = agent_writes.shutdown().await;
        return Err(error);
    }
    let _ = agent_writes.shutdown().await;
    let _ = server_writes.shutdown().await;
    Ok(())
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
