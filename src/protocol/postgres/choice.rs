//! Which credential and which database a start-up means. *Pure.*

use super::startup::{Startup, StartupError};

/// A credential that the profile holds at the endpoint.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// `postgres_credential.orders`.
    pub key: std::sync::Arc<str>,
    /// The role it logs in as; the agent's own where `None`.
    pub user: Option<String>,
    /// The only database it is for; any where `None`.
    pub database: Option<String>,
    pub placeholders: Vec<String>,
    pub fallback: bool,
}

/// What selection came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Selected {
    /// The index of the candidate.
    One(usize),
    /// Only the agent's password can tell.
    AskPassword,
}

/// Selects: a placeholder in the user or the password, the only candidate, a candidate's user
/// equal to the agent's, the fallback. `password` is `None` before it was asked for.
///
/// # Errors
/// A placeholder is of no candidate, two are named, or nothing selects one.
pub fn select(held: &[Candidate], user: &str, password: Option<&str>) -> Result<Selected, StartupError> {
    let mut named = None;
    for text in [Some(user), password].into_iter().flatten() {
        let hit = held.iter().position(|one| {
            one.placeholders
                .iter()
                .any(|placeholder| !placeholder.is_empty() && placeholder == text)
        });
        match (hit, named) {
            (Some(hit), Some(before)) if hit != before => return Err(StartupError::Ambiguous),
            (Some(hit), _) => named = Some(hit),
            (None, _) if text.contains("{{") => return Err(StartupError::Placeholder),
            (None, _) => {}
        }
    }
    if let Some(index) = named {
        return Ok(Selected::One(index));
    }
    if held.len() == 1 {
        return Ok(Selected::One(0));
    }
    let mut same_user = (0..held.len()).filter(|&index| {
        held.get(index)
            .is_some_and(|one| one.user.as_deref() == Some(user))
    });
    if let (Some(index), None) = (same_user.next(), same_user.next()) {
        return Ok(Selected::One(index));
    }
    if password.is_none() && !held.is_empty() {
        return Ok(Selected::AskPassword);
    }
    held.iter()
        .position(|one| one.fallback)
        .map(Selected::One)
        .ok_or(StartupError::Ambiguous)
}

/// The database that is meant: what the agent named, within what the endpoint and the credential
/// allow. To name the user again is to name none: libpq does that on its own.
///
/// # Errors
/// The database that was named, and is not allowed.
pub fn database(startup: &Startup, user: &str, allowed: &[Option<&str>]) -> Result<String, String> {
    let named = Some(startup.database.as_str()).filter(|name| !name.is_empty() && *name != startup.user);
    let mut allowed = allowed.iter().flatten();
    let Some(only) = allowed.next() else {
        // A user that is a placeholder is no database.
        let default = || match startup.database.is_empty() || startup.user.contains("{{") {
            true => user.to_owned(),
            false => startup.database.clone(),
        };
        return Ok(named.map_or_else(default, str::to_owned));
    };
    let wanted = named.unwrap_or(only);
    match wanted == *only && allowed.all(|also| also == only) {
        true => Ok(wanted.to_owned()),
        false => Err(wanted.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_selected() {
        let one = |name: &str, fallback| Candidate {
            key: name.into(),
            user: Some(name.to_owned()),
            database: None,
            placeholders: vec![format!("{{{{{name}}}}}")],
            fallback,
        };
        let held = [one("a", true), one("b", false)];
        for (user, password, want) in [
            ("{{b}}", None, Ok(Selected::One(1))),
            ("b", None, Ok(Selected::One(1))),
            ("x", None, Ok(Selected::AskPassword)),
            ("x", Some("{{b}}"), Ok(Selected::One(1))),
            ("x", Some(""), Ok(Selected::One(0))),
            ("{{c}}", None, Err(StartupError::Placeholder)),
            ("{{a}}", Some("{{b}}"), Err(StartupError::Ambiguous)),
        ] {
            assert_eq!(select(&held, user, password), want, "{user} {password:?}");
        }
        assert_eq!(select(&held[1..], "x", None), Ok(Selected::One(0)));
        assert_eq!(select(&[], "x", None), Err(StartupError::Ambiguous));
    }

    #[test]
    fn the_database_is_the_one_that_is_allowed() {
        let check = |named: &str, allowed: &[Option<&str>], want: Result<&str, &str>| {
            let startup = Startup {
                user: "agent".to_owned(),
                database: named.to_owned(),
                ..Startup::default()
            };
            let got = database(&startup, "app", allowed);
            assert_eq!(
                got.as_deref().map_err(String::as_str),
                want,
                "{named} {allowed:?}"
            );
        };
        check("", &[None, None], Ok("app"));
        check("agent", &[None, None], Ok("agent"));
        check("{{orders}}", &[], Ok("{{orders}}"));
        check("x", &[None], Ok("x"));
        check("", &[Some("orders"), None], Ok("orders"));
        check("agent", &[None, Some("orders")], Ok("orders"));
        check("orders", &[Some("orders"), Some("orders")], Ok("orders"));
        check("x", &[Some("orders")], Err("x"));
        check("orders", &[Some("orders"), Some("other")], Err("orders"));
    }
}
