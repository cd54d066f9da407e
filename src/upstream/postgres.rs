//! The login to a PostgreSQL server: SSLRequest as `sslmode` says, then whatever password exchange
//! the server asks for. (PostgreSQL documentation, "Start-up" and "SASL Authentication".)
//!
//! Invariants: a clear-text password goes only into verified TLS; an MD5 answer, which proves nothing of the
//! server and lets who sees it guess at leisure, goes there too, or where `sslmode = "disable"` says that
//! the way is trusted as it is; SCRAM is finished by the server's own proof; with -PLUS on offer over TLS nothing weaker is taken; a server that lets us
//! in without asking for the password is taken only over verified TLS or where no password is held,
//! since it has proved nothing.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::bad_input;
use crate::policy::SslMode;
use crate::protocol::postgres::wire::{self, HEADER_BYTES, message};
use crate::tls::binding::server_end_point;
use crate::tls::{Connectors, Verify, Wanted};

/// Bytes of one message during the login.
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Messages that a server may send during the login.
pub const LOGIN_MESSAGES_MAX: usize = 1000;

/// Rounds of hashing that a server may ask of SCRAM (`scram_iterations`; 4096 by default): some
/// 0.3 s of a core.
pub const SCRAM_ITERATIONS_MAX: u32 = 600_000;

/// By the server's own functions, which no others of their names can stand before.
const ASK_PATH: &[u8] = b"SELECT pg_catalog.current_setting('search_path'), \
    pg_catalog.to_regnamespace(pg_catalog.quote_ident(CURRENT_USER)) IS NOT NULL\0";

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A byte stream to either end.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// The login failed. Only [`LoginError::Server`] may be shown to the agent.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] crate::tls::client::ConnectError),
    #[error("the server speaks no TLS, and `sslmode` wants it")]
    NoTls,
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the password has a zero in it, which no message can carry")]
    Password,
    #[error("the server asks for a password, and the credential has none")]
    NoPassword,
    #[error("the server asks for a clear-text password outside verified TLS")]
    Clear,
    #[error(
        "the server asks for an MD5 password outside verified TLS: give it a SCRAM password, verify it \
         (`sslmode = \"verify-full\"`), or trust the way to it (`sslmode = \"disable\"`)"
    )]
    Md5,
    #[error("the server let us in without proving that it knows the password")]
    Unproved,
    #[error("the server asks for an unknown kind of authentication ({0})")]
    Unknown(u32),
    #[error("the server refused the login ({code})")]
    Server { code: String },
    #[error("the server does not read text as UTF-8 with standard strings")]
    Setting,
}

/// What the server said is none of the protocol's, and is counted.
fn broke(why: &'static str) -> LoginError {
    bad_input::count(bad_input::Reader::PostgresServer, &"login");
    LoginError::Protocol(why)
}

/// How far the connection to the server can be trusted.
#[derive(Debug, Default)]
pub struct Trust {
    /// Whether there is TLS, whose server was verified.
    pub tls: bool,
    pub verified: bool,
    /// Whether the policy asks for no TLS, so that whoever is on the way is trusted.
    pub plain_by_choice: bool,
    /// The `tls-server-end-point` binding.
    pub binding: Option<Vec<u8>>,
}

/// Whom to log in as.
pub struct Login<'a> {
    pub user: &'a str,
    pub password: Option<&'a [u8]>,
    pub database: &'a str,
    pub settings: &'a [(String, String)],
}

/// What the server said until it was ready.
#[derive(Debug)]
pub struct Ready {
    /// ParameterStatus and notices, to be passed on.
    pub greetings: Vec<Bytes>,
    pub process: i32,
    pub key: Bytes,
    /// The transaction state.
    pub status: u8,
}

/// Speaks TLS to the server where `mode` says so.
///
/// # Errors
/// The server has no TLS where it is wanted, or its certificate does not verify.
pub async fn secure(
    mut io: Box<dyn Wire>,
    mode: SslMode,
    host: &str,
    ca_cert: Option<&str>,
    connectors: &Connectors,
) -> Result<(Box<dyn Wire>, Trust), LoginError> {
    // As libpq: `require` with roots given verifies the chain.
    let Some(verify) = Verify::for_sslmode(mode, ca_cert.is_some()) else {
        let trust = Trust {
            plain_by_choice: true,
            ..Trust::default()
        };
        return Ok((io, trust));
    };
    io.write_all(&SSL_REQUEST).await?;
    match io.read_u8().await? {
        b'S' => {}
        b'N' if mode == SslMode::Prefer => return Ok((io, Trust::default())),
        b'N' => return Err(LoginError::NoTls),
        _ => return Err(broke("answer to SSLRequest")),
    }
    let wanted = Wanted {
        host,
        ca_cert,
        verify,
        alpn: &[b"postgresql"],
        identity: None,
    };
    let stream = connectors.connect(io, wanted).await?;
    let binding = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|leaf| server_end_point(leaf));
    let trust = Trust {
        tls: true,
        verified: verify != Verify::Nothing,
        plain_by_choice: false,
        binding,
    };
    Ok((Box::new(stream), trust))
}

/// Logs in and reads until the server is ready.
///
/// # Errors
/// The server refuses, asks for what is not given away, or does not prove itself.
pub async fn login<IO: Wire + ?Sized>(
    io: &mut IO,
    login: &Login<'_>,
    trust: &Trust,
) -> Result<Ready, LoginError> {
    let first = crate::protocol::postgres::startup::to_server(login.user, login.database, login.settings);
    io.write_all(&first).await?;
    authenticate(io, login, trust).await?;
    let mut ready = Ready {
        greetings: Vec::new(),
        process: 0,
        key: Bytes::new(),
        status: 0,
    };
    let (mut encoding, mut strings) = (false, false);
    for _ in 0..LOGIN_MESSAGES_MAX {
        let (tag, whole) = read_message(io).await?;
        let payload = whole.slice(HEADER_BYTES..);
        match (tag, &payload[..]) {
            (b'Z', [status]) => {
                ready.status = *status;
                return match encoding && strings {
                    true => Ok(ready),
                    false => Err(LoginError::Setting),
                };
            }
            (b'K', [a, b, c, d, key @ ..]) => {
                ready.process = i32::from_be_bytes([*a, *b, *c, *d]);
                ready.key = Bytes::copy_from_slice(key);
            }
            (b'S', text) => {
                encoding |= text == b"client_encoding\0UTF8\0";
                strings |= text == b"standard_conforming_strings\0on\0";
                ready.greetings.push(whole);
            }
            (b'N', _) => ready.greetings.push(whole),
            _ => return Err(broke("message before ready")),
        }
    }
    Err(broke("too many messages"))
}

/// What a server says of a session's `search_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPath {
    /// The setting's text: `"$user", public`.
    pub text: String,
    /// Whether there is a schema of the role's own name, which `"$user"` would mean.
    pub has_own: bool,
}

/// Asks a server that is ready for the session's `search_path`; `None` where it gives none. It changes
/// nothing of the session.
///
/// # Errors
/// The server breaks the protocol.
pub async fn search_path<IO: Wire + ?Sized>(
    io: &mut IO,
    ready: &mut Ready,
) -> Result<Option<FirstPath>, LoginError> {
    io.write_all(&message(b'Q', ASK_PATH)).await?;
    let (mut found, mut rows) = (None, 0);
    for _ in 0..LOGIN_MESSAGES_MAX {
        let (tag, whole) = read_any(io).await?;
        let payload = whole.slice(HEADER_BYTES..);
        match (tag, &payload[..]) {
            (b'D', row) => {
                rows += 1;
                found = row.strip_prefix(&[0, 2]).and_then(first_path);
            }
            (b'T' | b'C' | b'E', _) => {}
            (b'S' | b'N', _) => ready.greetings.push(whole),
            (b'Z', [status]) => {
                ready.status = *status;
                return Ok(found.filter(|_| rows == 1));
            }
            _ => return Err(broke("message for a question")),
        }
    }
    Err(broke("too many messages"))
}

/// The two columns of the row.
fn first_path(row: &[u8]) -> Option<FirstPath> {
    let column = |row: &[u8]| {
        let (length, rest) = row.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        Some((std::str::from_utf8(value).ok()?.to_owned(), rest.to_vec()))
    };
    let (text, rest) = column(row)?;
    let (own, rest) = column(&rest)?;
    let has_own = match own.as_str() {
        "t" => true,
        "f" => false,
        _ => return None,
    };
    rest.is_empty().then_some(FirstPath { text, has_own })
}

/// Reads a message; an ErrorResponse is an error.
async fn read_message<IO: Wire + ?Sized>(io: &mut IO) -> Result<(u8, Bytes), LoginError> {
    let (tag, whole) = read_any(io).await?;
    if tag == b'E' {
        let code = wire::sqlstate(whole.get(HEADER_BYTES..).unwrap_or_default());
        let code = code.filter(|code| code.len() == 5).unwrap_or("XX000").to_owned();
        return Err(LoginError::Server { code });
    }
    Ok((tag, whole))
}

async fn read_any<IO: Wire + ?Sized>(io: &mut IO) -> Result<(u8, Bytes), LoginError> {
    let mut head = [0; HEADER_BYTES];
    io.read_exact(&mut head).await?;
    let (tag, total) = wire::head(&head)
        .ok()
        .flatten()
        .filter(|(_, total)| *total <= LOGIN_MESSAGE_BYTES_MAX)
        .ok_or_else(|| broke("length"))?;
    let mut whole = BytesMut::from(&head[..]);
    whole.resize(total, 0);
    io.read_exact(whole.get_mut(HEADER_BYTES..).unwrap_or_default())
        .await?;
    Ok((tag, whole.freeze()))
}

/// Reads an Authentication message: its code and the rest.
async fn read_request<IO: Wire + ?Sized>(io: &mut IO) -> Result<(u32, Bytes), LoginError> {
    let (tag, whole) = read_message(io).await?;
    let mut payload = whole.slice(HEADER_BYTES..);
    if tag != b'R' || payload.len() < 4 {
        return Err(broke("no authentication message"));
    }
    let code = payload.split_to(4);
    let code = code.iter().fold(0, |code, byte| code << 8 | u32::from(*byte));
    Ok((code, payload))
}

async fn authenticate<IO: Wire + ?Sized>(
    io: &mut IO,
    login: &Login<'_>,
    trust: &Trust,
) -> Result<(), LoginError> {
    let password = login.password.ok_or(LoginError::NoPassword);
    let (code, rest) = read_request(io).await?;
    match code {
        0 if login.password.is_none() || trust.verified => return Ok(()),
        0 => return Err(LoginError::Unproved),
        3 if !trust.verified => return Err(LoginError::Clear),
        3 => send_password(io, password?).await?,
        5 if !trust.verified && !trust.plain_by_choice => return Err(LoginError::Md5),
        5 => {
            let salt: [u8; 4] = rest[..].try_into().map_err(|_| broke("salt"))?;
            let hash = md5_hash(login.user.as_bytes(), password?, salt);
            send_password(io, hash.as_bytes()).await?;
        }
        10 => scram(io, password?, &rest, trust).await?,
        other => {
            let error = LoginError::Unknown(other);
            bad_input::count(bad_input::Reader::PostgresServer, &error);
            return Err(error);
        }
    }
    match read_request(io).await? {
        (0, _) => Ok(()),
        _ => Err(broke("authentication goes on")),
    }
}

async fn send_password<IO: Wire + ?Sized>(io: &mut IO, password: &[u8]) -> Result<(), LoginError> {
    if password.contains(&0) {
        return Err(LoginError::Password);
    }
    let mut payload = zeroize::Zeroizing::new(password.to_vec());
    payload.push(0);
    Ok(io.write_all(&message(b'p', &payload)).await?)
}

async fn scram<IO: Wire + ?Sized>(
    io: &mut IO,
    password: &[u8],
    mechanisms: &[u8],
    trust: &Trust,
) -> Result<(), LoginError> {
    let offers = |name: &str| {
        mechanisms
            .split(|byte| *byte == 0)
            .any(|one| one == name.as_bytes())
    };
    let plus = offers(SCRAM_SHA_256_PLUS);
    if plus && !trust.tls {
        return Err(broke("channel binding without a channel"));
    }
    let (name, binding) = match (&trust.binding, plus) {
        (Some(binding), true) => (
            SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(binding.clone()),
        ),
        _ if !offers(SCRAM_SHA_256) => return Err(broke("no SCRAM that we know")),
        // `y`: we could bind, and saw no offer. A server that made one then knows of the downgrade.
        (Some(_), false) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        (None, _) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    let failed = |_| broke("SCRAM");
    let mut exchange = ScramSha256::new(password, binding);
    let mut first = BytesMut::new();
    first.put_slice(name.as_bytes());
    first.put_u8(0);
    first.put_u32(u32::try_from(exchange.message().len()).unwrap_or(u32::MAX));
    first.put_slice(exchange.message());
    io.write_all(&message(b'p', &first)).await?;
    let (11, challenge) = read_request(io).await? else {
        return Err(broke("SASLContinue"));
    };
    if iterations(&challenge).is_none_or(|asked| asked > SCRAM_ITERATIONS_MAX) {
        return Err(broke("SCRAM iterations"));
    }
    exchange.update(&challenge).map_err(failed)?;
    io.write_all(&message(b'p', exchange.message())).await?;
    let (12, proof) = read_request(io).await? else {
        return Err(broke("SASLFinal"));
    };
    exchange.finish(&proof).map_err(failed)
}

/// The iteration count of a server-first-message (RFC 5802 §7: `r=…,s=…,i=4096`).
fn iterations(challenge: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(challenge).ok()?;
    text.split(',')
        .find_map(|field| field.strip_prefix("i="))?
        .parse()
        .ok()
}
