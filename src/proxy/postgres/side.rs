//! A second session of the gateway's own beside an agent's: it sees who waits for a held change.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, interval, timeout};

use super::start::dial;
use super::{Context, ServeError, Wire};
use crate::protocol::postgres::own::{self, Own};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, WireError};
use crate::upstream::postgres::{Login, login};
use crate::verdict::Permit;

/// Bytes of an answer here: a number.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How often waiters are looked for at most; it is a quarter of what they put up with.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(50);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// What the session's start-up packet sets: no operator of anybody's path, and a name for its people.
const SETTINGS: [(&str, &str); 2] = [
    ("search_path", "pg_catalog"),
    ("application_name", "tailkeep preview"),
];

/// The session.
pub(super) struct Side {
    io: Box<dyn Wire>,
    read: BytesMut,
    time: Duration,
}

impl Side {
    /// Logs in as the agent's session did.
    pub(super) async fn open(
        context: &Context<'_>,
        permit: &Permit,
        (user, database): &(String, String),
    ) -> Result<Side, ServeError> {
        let time = Duration::from_millis(context.limits.connect_ms);
        let secret = context.gateway.secret(permit).await;
        let secret = secret.map_err(ServeError::Refused)?;
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let wanted = Login {
            user,
            password: Some(secret.expose()),
            database,
            settings: &settings,
        };
        let enter = async {
            let (mut io, trust) = dial(permit, context).await?;
            login(&mut *io, &wanted, &trust).await?;
            Ok::<_, ServeError>(io)
        };
        let io = timeout(time, enter).await.map_err(|_| ServeError::Late)??;
        Ok(Side {
            io,
            read: BytesMut::new(),
            time,
        })
    }

    /// Ends once somebody has waited for locks of `process` longer than `lock_max`, without a break, or
    /// once that can no longer be seen.
    pub(super) async fn watch(mut self, process: i32, lock_max: Duration) -> &'static str {
        let query = format!(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a \
             WHERE {process} = ANY (pg_catalog.pg_blocking_pids(a.pid))"
        );
        let mut looks = interval((lock_max / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX));
        let mut since: Option<Instant> = None;
        loop {
            looks.tick().await;
            let waiters = match timeout(self.time, self.ask(&query)).await {
                Ok(Ok(waiters)) => waiters,
                Ok(Err(_)) | Err(_) => return "who waits for its locks could no longer be seen",
            };
            if waiters == Some("0".to_owned()) {
                since = None;
                continue;
            }
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() >= lock_max {
                return "others waited for its locks";
            }
        }
    }

    /// The first value of the first row.
    async fn ask(&mut self, query: &str) -> Result<Option<String>, ServeError> {
        self.io.write_all(&Own::Simple.texts(&[query])).await?;
        self.io.flush().await?;
        let mut value = None;
        loop {
            let (tag, payload) = self.message().await?;
            match tag {
                b'D' => value = own::row(&payload, 1, ANSWER_BYTES_MAX).pop().flatten(),
                b'E' => return Err(WireError::Upstream("an error beside a preview").into()),
                b'Z' => return Ok(value),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<(u8, Bytes), ServeError> {
        loop {
            let broke = |why: WireError| {
                super::count_wire(&why);
                why
            };
            let head = wire::head(&self.read).map_err(|()| broke(WireError::Upstream("length")))?;
            match head {
                Some((_, total)) if total > ANSWER_BYTES_MAX => {
                    return Err(broke(WireError::LongAnswer).into());
                }
                Some((tag, total)) if self.read.len() >= total => {
                    let message = self.read.split_to(total).freeze();
                    return Ok((tag, message.slice(HEADER_BYTES..)));
                }
                _ => {}
            }
            if self.io.read_buf(&mut self.read).await? == 0 {
                return Err(WireError::Upstream("the end").into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_has_a_size() {
        for (bytes, is_long) in [(ANSWER_BYTES_MAX, false), (ANSWER_BYTES_MAX + 1, true)] {
            let (mut server, io) = tokio::io::duplex(2 * ANSWER_BYTES_MAX);
            let payload = vec![0; bytes - HEADER_BYTES];
            server.write_all(&wire::message(b'D', &payload)).await.unwrap();
            let mut side = Side {
                io: Box::new(io),
                read: BytesMut::new(),
                time: Duration::from_secs(1),
            };
            assert_eq!(side.message().await.is_err(), is_long);
        }
    }
}
