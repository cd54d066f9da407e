//! `/v1/sign-in`, `/v1/session`, `/v1/invitations/…`, `/v1/sessions`, `/v1/operators`: the people of
//! the page.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::admit::{BySession, Caller};
use super::api::{Failed, Removed, bad, broken, not_found, state_failed};
use super::password::{PasswordError, Passwords};
use super::{AdminError, Operator, Person};
use crate::state::operator::{Account, SESSION_S_MAX, Session, Via};

/// How long an invitation lasts.
pub const INVITATION_LASTS: Duration = Duration::from_secs(24 * 3600);
/// Characters that are kept of what a browser calls itself.
const BROWSER_CHARS_MAX: usize = 200;

/// Signing in, and who is to be told that a session ended.
pub(super) struct People {
    passwords: Arc<Passwords>,
    ended: watch::Sender<u64>,
}

impl People {
    /// # Errors
    /// No random bytes.
    pub(super) fn new() -> Result<Arc<People>, AdminError> {
        let passwords = Passwords::new().map_err(|error| AdminError::Random(error.to_string()))?;
        Ok(Arc::new(People {
            passwords,
            ended: watch::Sender::new(0),
        }))
    }

    /// Changes whenever a session may have ended.
    pub(super) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn note_end(&self) {
        self.ended.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl From<PasswordError> for Failed {
    fn from(error: PasswordError) -> Failed {
        let status = match error {
            PasswordError::Short | PasswordError::Long => StatusCode::BAD_REQUEST,
            PasswordError::Wait(_) => StatusCode::TOO_MANY_REQUESTS,
            PasswordError::Hash(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failed(status, error.to_string())
    }
}

/// What the page may offer to one who is not signed in.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ways {
    /// As whom the tailnet proves them.
    tailnet: Option<String>,
    password: bool,
    has_operators: bool,
}

pub(super) async fn ways(
    Shared(operator): Shared<Operator>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Ways>, Failed> {
    let login = match &caller {
        Caller::Tailnet(_, _, peer) => Some(peer.login.clone()),
        _ => None,
    };
    let operators = operator
        .state
        .run(|state| state.operators())
        .await
        .map_err(broken)?;
    let has_password = operators.iter().any(|account| account.created_us.is_some());
    Ok(Json(Ways {
        password: login.is_none(),
        tailnet: login,
        has_operators: has_password,
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    name: String,
    password: String,
}

/// A session that is open now; its cookie comes along.
#[derive(Serialize, JsonSchema)]
pub(super) struct SignedIn {
    person: String,
    session: i64,
    /// The session's second secret, for the header `X-Tailkeep-Guard`.
    guard: String,
}

/// An answer that sets a cookie.
type WithCookie<T> = Result<(HeaderMap, Json<T>), Failed>;

pub(super) async fn sign_in(
    Shared(operator): Shared<Operator>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(SignIn { name, password }): Json<SignIn>,
) -> WithCookie<SignedIn> {
    if !matches!(caller, Caller::Loopback(..)) {
        return Err(bad(
            "a password is for the gateway's own machine; the tailnet knows who you are",
        ));
    }
    let asked = name.clone();
    let kept = operator
        .state
        .run(move |state| state.operator_password(&asked))
        .await;
    let is = operator
        .people
        .passwords
        .is(&name, kept.map_err(broken)?, password)
        .await?;
    if !is {
        tracing::warn!(address = caller.address(), "a sign-in to the admin page failed");
        return Err(Failed(
            StatusCode::UNAUTHORIZED,
            "the name or the password is wrong".to_owned(),
        ));
    }
    open(&operator, &caller, &headers, name, Via::Password).await
}

pub(super) async fn sign_in_by_tailnet(
    Shared(operator): Shared<Operator>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> WithCookie<SignedIn> {
    let Caller::Tailnet(_, _, peer) = &caller else {
        return Err(bad("the tailnet says nothing of this connection"));
    };
    let login = peer.login.clone();
    open(&operator, &caller, &headers, login, Via::Tailnet).await
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Invitation {
    invitation: String,
    /// Without it, the answer says only whom the invitation is for.
    password: Option<String>,
}

/// Whom an invitation is for, or the session of one who has used it.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Invited {
    For { name: String },
    Used(SignedIn),
}

pub(super) async fn use_invitation(
    Shared(operator): Shared<Operator>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Json(Invitation { invitation, password }): Json<Invitation>,
) -> WithCookie<Invited> {
    if !matches!(caller, Caller::Loopback(..)) {
        return Err(bad("an invitation is for the gateway's own machine"));
    }
    let over = || not_found("this invitation was used, or its time is over; ask for a new one".to_owned());
    let token = invitation.clone();
    let name = operator.state.run(move |state| state.invited(&token)).await;
    let name = name.map_err(broken)?.ok_or_else(over)?;
    let Some(password) = password else {
        return Ok((HeaderMap::new(), Json(Invited::For { name })));
    };
    let kept = operator.people.passwords.hash(password).await?;
    let used = operator
        .state
        .run(move |state| state.accept_invitation(&invitation, &kept))
        .await;
    let name = used.map_err(broken)?.ok_or_else(over)?;
    operator.people.note_end();
    tracing::info!(person = name, "an operator has set their password");
    let (cookie, Json(opened)) = open(&operator, &caller, &headers, name, Via::Password).await?;
    Ok((cookie, Json(Invited::Used(opened))))
}

async fn open(
    operator: &Operator,
    caller: &Caller,
    headers: &HeaderMap,
    person: String,
    via: Via,
) -> WithCookie<SignedIn> {
    let Some(site) = caller.site() else {
        return Err(bad("a session is for browsers"));
    };
    let browser = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let browser: String = browser
        .unwrap_or_default()
        .chars()
        .take(BROWSER_CHARS_MAX)
        .collect();
    let (name, address) = (person.clone(), caller.address());
    let opened = operator
        .state
        .run(move |state| state.open_session(&name, via, &address, &browser))
        .await;
    let opened = opened.map_err(broken)?;
    operator.people.note_end();
    tracing::info!(
        person,
        session = opened.id,
        address = caller.address(),
        "signed in"
    );
    let body = SignedIn {
        person,
        session: opened.id,
        guard: opened.guard,
    };
    with_cookie(site.set_cookie(&opened.token, SESSION_S_MAX), body)
}

fn with_cookie<T>(cookie: Option<HeaderValue>, body: T) -> WithCookie<T> {
    let cookie = cookie.ok_or_else(|| broken("no cookie"))?;
    let headers = HeaderMap::from_iter([(header::SET_COOKIE, cookie)]);
    Ok((headers, Json(body)))
}

/// Who asks.
#[derive(Serialize, JsonSchema)]
pub(super) struct Asker {
    person: String,
    /// Null where no session is needed.
    session: Option<Session>,
}

pub(super) async fn session(
    Extension(Person(person)): Extension<Person>,
    Extension(BySession(session)): Extension<BySession>,
) -> Json<Asker> {
    Json(Asker { person, session })
}

/// The number of the session that is over.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ended {
    ended: i64,
}

pub(super) async fn sign_out(
    Shared(operator): Shared<Operator>,
    Extension(caller): Extension<Caller>,
    Extension(BySession(session)): Extension<BySession>,
) -> WithCookie<Ended> {
    let (Some(session), Some(site)) = (session, caller.site()) else {
        return Err(bad("there is no session to end"));
    };
    end(&operator, session.id).await?;
    with_cookie(site.set_cookie("", 0), Ended { ended: session.id })
}

pub(super) async fn sessions(Shared(operator): Shared<Operator>) -> Result<Json<Vec<Session>>, Failed> {
    let open = operator.state.run(|state| state.sessions()).await;
    open.map(Json).map_err(broken)
}

pub(super) async fn end_session(
    Shared(operator): Shared<Operator>,
    Path(id): Path<i64>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Ended>, Failed> {
    if !end(&operator, id).await? {
        return Err(not_found(format!("there is no session {id}")));
    }
    tracing::info!(session = id, person, "a session is ended");
    Ok(Json(Ended { ended: id }))
}

async fn end(operator: &Operator, id: i64) -> Result<bool, Failed> {
    let ended = operator.state.run(move |state| state.end_session(id)).await;
    operator.people.note_end();
    ended.map_err(broken)
}

pub(super) async fn operators(Shared(operator): Shared<Operator>) -> Result<Json<Vec<Account>>, Failed> {
    let all = operator.state.run(|state| state.operators()).await;
    all.map(Json).map_err(broken)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    name: String,
    /// The same person's on the tailnet.
    login: Option<String>,
}

/// An invitation.
#[derive(Serialize, JsonSchema)]
pub(super) struct Inviting {
    name: String,
    /// To be opened once, on the gateway's own machine.
    url: String,
    expires_s: u64,
}

pub(super) async fn invite(
    Shared(operator): Shared<Operator>,
    Extension(Person(person)): Extension<Person>,
    Json(Invite { name, login }): Json<Invite>,
) -> Result<Json<Inviting>, Failed> {
    let (invited, own) = (name.clone(), login.clone());
    let token = operator
        .state
        .run(move |state| state.invite_operator(&invited, own.as_deref(), INVITATION_LASTS))
        .await
        .map_err(state_failed)?;
    let address = operator
        .page
        .get()
        .ok_or_else(|| broken("the page is not served yet"))?;
    tracing::info!(name, login, person, "an operator is invited");
    // Behind the `#`: a browser keeps it to itself.
    let url = format!("http://{address}/#/invitation/{token}");
    Ok(Json(Inviting {
        name,
        url,
        expires_s: INVITATION_LASTS.as_secs(),
    }))
}

pub(super) async fn remove_operator(
    Shared(operator): Shared<Operator>,
    Path(name): Path<String>,
    Extension(Person(person)): Extension<Person>,
) -> Result<Json<Removed<String>>, Failed> {
    let gone = name.clone();
    let removed = operator
        .state
        .run(move |state| state.remove_operator(&gone))
        .await;
    operator.people.note_end();
    if !removed.map_err(broken)? {
        return Err(not_found(format!("there is no operator {name}")));
    }
    tracing::info!(name, person, "an operator is removed");
    Ok(Json(Removed { removed: name }))
}
