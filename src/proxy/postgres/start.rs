//! The start of a connection: the agent's requests, the choice of a credential, the login.

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, timeout};

use super::cancel::Ticket;
use super::{Context, ServeError, Wire, settings};
use crate::audit::{Outcome, RecordId};
use crate::facts::Facts;
use crate::facts::sql::path::{PathChange, SearchPath};
use crate::protocol::postgres::choice::{self, Candidate, Selected};
use crate::protocol::postgres::startup::{self, Opening, STARTUP_BYTES_MAX, Startup, StartupError};
use crate::protocol::postgres::wire::{self, HEADER_BYTES, message};
use crate::proxy::replay::Replayed;
use crate::tls::HANDSHAKE_RECORD;
use crate::upstream::postgres::{Login, LoginError, Ready, Trust, login, search_path, secure};
use crate::verdict::{Action, Cause, Digest, Permit, Refusal, Step};

/// Requests that may precede the StartupMessage: GSSENC, then SSL, then the message itself.
const REQUESTS_MAX: usize = 4;
/// Bytes of a password message; placeholders are short.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Both ends, ready.
pub(super) struct Connected {
    pub(super) upstream: Box<dyn Wire>,
    pub(super) permit: Permit,
    pub(super) ticket: Ticket,
    pub(super) process: i32,
    pub(super) key: Bytes,
    pub(super) status: u8,
    pub(super) database: String,
    pub(super) user: String,
    /// What the start-up packet says of the `search_path`, and the server if it was asked.
    pub(super) path: SearchPath,
    pub(super) path_asked: bool,
    /// What the agent is told first.
    pub(super) greeting: Bytes,
}

/// Reads up to the StartupMessage; `None` after a CancelRequest.
pub(super) async fn open(
    mut io: Box<dyn Wire>,
    context: &Context<'_>,
) -> Result<Option<(Box<dyn Wire>, Startup)>, ServeError> {
    let (mut tls, mut promised) = (false, false);
    for _ in 0..REQUESTS_MAX {
        let first = io.read_u8().await?;
        if promised && first != HANDSHAKE_RECORD {
            // Somebody in between could have sent it in the clear.
            return Err(StartupError::Malformed.into());
        }
        if first == HANDSHAKE_RECORD && !tls {
            (tls, promised) = (true, false);
            let replayed = Box::new(Replayed::new(io, vec![first]));
            let accept = context
                .gateway
                .accept_tls(replayed)
                .ok_or(StartupError::Malformed)?;
            io = accept.await?;
            continue;
        }
        let mut length = [first, 0, 0, 0];
        io.read_exact(&mut length[1..]).await?;
        let length = u32::from_be_bytes(length) as usize;
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(StartupError::Malformed.into());
        }
        let mut packet = vec![0; length - 4];
        io.read_exact(&mut packet).await?;
        match startup::read(Bytes::from(packet)) {
            Ok(Opening::Startup(startup)) => return Ok(Some((io, startup))),
            Ok(Opening::Cancel { process, key }) => {
                context
                    .cancels
                    .cancel(context.agent, &context.endpoint.key, process, &key);
                // libpq takes an end of TLS without its word for an error. It may be gone already.
                let _ = io.shutdown().await;
                return Ok(None);
            }
            Ok(Opening::Gssenc) => io.write_all(b"N").await?,
            Ok(Opening::Ssl) => {
                if tls {
                    return Err(StartupError::Malformed.into());
                }
                // The leaf is asked for at the first byte of the hello, which comes next.
                promised = context.gateway.offers_tls();
                io.write_all(if promised { b"S" } else { b"N" }).await?;
            }
            Err(error) => {
                let error = ServeError::from(error);
                tell(&mut io, &error, &context.help).await;
                return Err(error);
            }
        }
        io.flush().await?;
    }
    Err(StartupError::Malformed.into())
}

/// What the agent means to open, and its permit.
struct Chosen {
    user: String,
    database: String,
    settings: Vec<(String, String)>,
    permit: Permit,
    /// The records of the settings.
    judged: Vec<RecordId>,
}

/// Selects the credential, asks the gate, dials and logs in.
pub(super) async fn connect(
    agent: &mut Box<dyn Wire>,
    startup: Startup,
    context: &Context<'_>,
) -> Result<Connected, ServeError> {
    if let Some(negotiate) = &startup.negotiate {
        agent.write_all(negotiate).await?;
    }
    let candidate = select(agent, &startup, context).await?;
    let chosen = ask(agent, startup, candidate, context).await?;
    let (permit, judged) = (chosen.permit.record(), chosen.judged.clone());
    let began = Instant::now();
    let reached = reach(chosen, context).await;
    let outcome = |status: String| Outcome {
        status,
        took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        ..Outcome::default()
    };
    for record in judged {
        let status = reached.as_ref().map_or_else(failure, |_| "SET".to_owned());
        context.gateway.finish(record, outcome(status));
    }
    reached.inspect_err(|error| context.gateway.finish(permit, outcome(failure(error))))
}

async fn select<'a>(
    agent: &mut Box<dyn Wire>,
    startup: &Startup,
    context: &'a Context<'_>,
) -> Result<&'a Candidate, ServeError> {
    let time = Duration::from_millis(context.limits.handshake_ms);
    let mut selected = choice::select(&context.held, &startup.user, None)?;
    if selected == Selected::AskPassword {
        let password = timeout(time, ask_password(agent))
            .await
            .map_err(|_| ServeError::Late)??;
        selected = choice::select(&context.held, &startup.user, Some(&password))?;
    }
    match selected {
        Selected::One(index) => Ok(context.held.get(index).ok_or(StartupError::Ambiguous)?),
        Selected::AskPassword => Err(StartupError::Ambiguous.into()),
    }
}

async fn ask(
    agent: &mut Box<dyn Wire>,
    startup: Startup,
    candidate: &Candidate,
    context: &Context<'_>,
) -> Result<Chosen, ServeError> {
    let user = candidate.user.clone().unwrap_or_else(|| startup.user.clone());
    let allowed = [
        context.endpoint.database.as_deref(),
        candidate.database.as_deref(),
    ];
    let database = match choice::database(&startup, &user, &allowed) {
        Ok(database) => database,
        Err(named) => {
            let refusal = Refusal::new(Cause::NoEndpoint, "this database is not one of yours");
            let summary = format!("connect to {named} as {user}");
            context.gateway.refused(&summary, refusal.clone()).await;
            return Err(ServeError::Refused(refusal));
        }
    };
    let settings = startup
        .settings
        .iter()
        .map(|(name, value)| format!(" {name}={value}"));
    let hello = startup::to_server(&user, &database, &startup.settings);
    let action = Action {
        step: Step::Connect,
        endpoint: context.endpoint.key.clone(),
        credential: Some(candidate.key.clone()),
        facts: Facts::None,
        digest: Digest::of(&hello),
        whole: true,
        summary: format!("connect to {database} as {user}{}", settings.collect::<String>()),
        detail: String::new(),
    };
    let permit = context
        .gateway
        .judge(&action)
        .await
        .map_err(ServeError::Refused)?;
    let grammar = context.gateway.grammar(&database, &user);
    let judged = settings::judge(agent, &startup.settings, &*grammar, &action, context).await;
    let judged = judged.inspect_err(|_| {
        let outcome = Outcome {
            status: "not dialled".to_owned(),
            ..Outcome::default()
        };
        context.gateway.finish(permit.record(), outcome);
    })?;
    Ok(Chosen {
        permit,
        judged,
        user,
        database,
        settings: startup.settings,
    })
}

/// Dials and logs in, within the time that an upstream has.
async fn reach(chosen: Chosen, context: &Context<'_>) -> Result<Connected, ServeError> {
    let time = Duration::from_millis(context.limits.connect_ms);
    let secret = context.gateway.secret(&chosen.permit).await;
    let secret = secret.map_err(ServeError::Refused)?;
    let wanted = Login {
        user: &chosen.user,
        password: Some(secret.expose()),
        database: &chosen.database,
        settings: &chosen.settings,
    };
    let enter = async {
        let (mut upstream, trust) = dial(&chosen.permit, context).await?;
        let mut ready = login(&mut *upstream, &wanted, &trust).await?;
        let asks = context.gateway.names_schemas();
        let path = match asks {
            true => Some(search_path(&mut *upstream, &mut ready).await?),
            false => None,
        };
        Ok::<_, ServeError>((upstream, ready, path))
    };
    let (upstream, ready, first) = timeout(time, enter).await.map_err(|_| ServeError::Late)??;
    let ticket = context.cancels.enter(context.agent, &context.endpoint.key)?;
    let mut path = path_of(&chosen.settings, &chosen.user);
    let path_asked = first.is_some();
    if let Some(first) = first {
        match first {
            Some(first) => path.begin(&first.text, first.has_own),
            None => path.apply(&PathChange::Unseen, &chosen.user),
        }
    }
    Ok(Connected {
        upstream,
        greeting: greeting(&ready, &ticket),
        permit: chosen.permit,
        ticket,
        process: ready.process,
        key: ready.key,
        status: ready.status,
        path,
        path_asked,
        database: chosen.database,
        user: chosen.user,
    })
}

fn path_of(settings: &[(String, String)], user: &str) -> SearchPath {
    let mut path = SearchPath::default();
    path.apply_roles(&PathChange::To(vec![user.to_owned()]));
    for (_, value) in settings.iter().filter(|(name, _)| name == "search_path") {
        path.apply(&PathChange::to_list(value), user);
    }
    path
}

/// What the agent is told once it is in: the server's own words, with a key of ours.
fn greeting(ready: &Ready, ticket: &Ticket) -> Bytes {
    let mut greeting = BytesMut::new();
    greeting.put_slice(&message(b'R', &[0; 4]));
    ready.greetings.iter().for_each(|one| greeting.put_slice(one));
    let mut key = ticket.process().to_be_bytes().to_vec();
    key.extend_from_slice(&ticket.secret());
    greeting.put_slice(&message(b'K', &key));
    greeting.put_slice(&wire::ready(ready.status));
    greeting.freeze()
}

/// What the record of a Connect says of a login that failed.
fn failure(error: &ServeError) -> String {
    match error {
        ServeError::Login(LoginError::Server { code }) => format!("ERROR {code}"),
        ServeError::Login(LoginError::Io(_)) | ServeError::Io(_) => "unreachable".to_owned(),
        ServeError::Login(error) => format!("no login: {error}"),
        ServeError::Late => "timed out".to_owned(),
        ServeError::Refused(_) => "no secret".to_owned(),
        _ => "failed".to_owned(),
    }
}

/// Dials and secures; for sessions and for cancels.
pub(super) async fn dial(
    permit: &Permit,
    context: &Context<'_>,
) -> Result<(Box<dyn Wire>, Trust), ServeError> {
    let io = context.gateway.dial(permit).await?;
    let ca_cert = context.endpoint.ca_cert.as_deref();
    Ok(secure(
        io,
        context.endpoint.sslmode,
        context.host,
        ca_cert,
        context.connectors,
    )
    .await?)
}

/// Asks for a clear-text password, which can only be a placeholder.
async fn ask_password(agent: &mut Box<dyn Wire>) -> Result<String, ServeError> {
    agent.write_all(&message(b'R', &[0, 0, 0, 3])).await?;
    agent.flush().await?;
    let mut head = [0; HEADER_BYTES];
    agent.read_exact(&mut head).await?;
    let total = match wire::head(&head) {
        Ok(Some((b'p', total))) if total <= PASSWORD_BYTES_MAX => total,
        _ => return Err(StartupError::Malformed.into()),
    };
    let mut payload = vec![0; total - HEADER_BYTES];
    agent.read_exact(&mut payload).await?;
    let mut payload = Bytes::from(payload);
    Ok(wire::take_text(&mut payload).ok_or(StartupError::Malformed)?)
}

/// Tells the agent why there is no connection, as far as it may know.
pub(super) async fn tell(agent: &mut Box<dyn Wire>, error: &ServeError, help: &str) {
    let (code, text) = match error {
        ServeError::Refused(refusal) => {
            let said = wire::denial("FATAL", &refusal.reason, help);
            return farewell(agent, &said).await;
        }
        ServeError::Startup(error) => ("28000", error.to_string()),
        ServeError::Login(LoginError::Server { code }) => {
            (code.as_str(), "the server refused the login".to_owned())
        }
        ServeError::Wire(error) => ("08P01", error.to_string()),
        _ => ("08001", "the server cannot be reached".to_owned()),
    };
    farewell(agent, &wire::error("FATAL", code, &text)).await;
}

/// The connection ends; whether the agent still reads is its own affair.
async fn farewell(agent: &mut Box<dyn Wire>, said: &[u8]) {
    let _ = agent.write_all(said).await;
    let _ = agent.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_has_a_size() {
        for (bytes, is_long) in [(PASSWORD_BYTES_MAX, false), (PASSWORD_BYTES_MAX + 1, true)] {
            let (mut agent, own) = tokio::io::duplex(4 * PASSWORD_BYTES_MAX);
            let mut password = vec![b'x'; bytes - HEADER_BYTES - 1];
            password.push(0);
            agent.write_all(&message(b'p', &password)).await.unwrap();
            let mut own: Box<dyn Wire> = Box::new(own);
            assert_eq!(ask_password(&mut own).await.is_err(), is_long);
        }
    }
}
