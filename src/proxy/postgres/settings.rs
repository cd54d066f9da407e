//! The settings of a start-up: what SET would be judged for must not come in by another door.
//!
//! `search_path` says which tables names mean, and a row policy may read a setting of its own
//! (`app.tenant`). So each is judged as the SET that it is, but for those that drivers send by
//! themselves and that change nothing but the form of what comes back.

use crate::audit::RecordId;
use crate::facts::Facts;
use crate::protocol::postgres::Grammar;
use crate::verdict::{Action, Cause, Refusal, Step};

use super::{Context, ServeError};

/// Settings of one start-up that are judged; each is an action with a record of its own.
pub const SETTINGS_MAX: usize = 32;

/// What drivers send by themselves: names and forms.
const HARMLESS: [&str; 6] = [
    "application_name",
    "datestyle",
    "extra_float_digits",
    "geqo",
    "intervalstyle",
    "timezone",
];

/// Judges each setting; `like` is the Connect, whose bytes hold them.
pub(super) async fn judge(
    settings: &[(String, String)],
    grammar: &dyn Grammar,
    like: &Action,
    context: &Context<'_>,
) -> Result<Vec<RecordId>, ServeError> {
    let judged: Vec<_> = settings
        .iter()
        .filter(|(name, _)| !HARMLESS.contains(&name.as_str()))
        .collect();
    if judged.len() > SETTINGS_MAX {
        let refusal = Refusal::new(Cause::Malformed, "too many settings in the start-up");
        context.gateway.refused("connect", refusal.clone()).await;
        return Err(ServeError::Refused(refusal));
    }
    let mut permits = Vec::with_capacity(judged.len());
    for (name, value) in judged {
        let text = set(name, value);
        let action = Action {
            step: Step::Request,
            facts: facts(grammar, &text, name),
            summary: text.clone(),
            detail: text,
            ..like.clone()
        };
        let permit = context
            .gateway
            .judge(&action)
            .await
            .map_err(ServeError::Refused)?;
        permits.push(permit.record());
    }
    Ok(permits)
}

/// The statement that sets it.
fn set(name: &str, value: &str) -> String {
    let plain = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && part.starts_with(|first: char| first.is_ascii_lowercase())
    };
    let parts = name.split('.').map(|part| match plain(part) {
        true => part.to_owned(),
        false => format!("\"{}\"", part.replace('"', "\"\"")),
    });
    let name = parts.collect::<Vec<_>>().join(".");
    format!("SET {name} TO '{}'", value.replace('\'', "''"))
}

/// Its facts; of a text that is not the SET of this name nothing is known.
fn facts(grammar: &dyn Grammar, text: &str, name: &str) -> Facts {
    let is_it = |facts: &Facts| match facts {
        Facts::Sql(facts) => facts.statement.setting.as_deref() == Some(name),
        _ => false,
    };
    match grammar.read(text).as_slice() {
        [one] if is_it(&one.facts) => one.facts.clone(),
        _ => grammar.opaque(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sql::read;

    #[test]
    fn a_setting_is_the_statement_that_sets_it() {
        for (name, value, want) in [
            ("search_path", "a, b", "SET search_path TO 'a, b'"),
            ("app.tenant", "it's", "SET app.tenant TO 'it''s'"),
            ("app.Tenant", r"\", r#"SET app."Tenant" TO '\'"#),
            (
                "a\"; drop table t; --",
                "x",
                "SET \"a\"\"; drop table t; --\" TO 'x'",
            ),
        ] {
            let text = set(name, value);
            assert_eq!(text, want);
            let statements = read(&text, 1 << 10);
            assert_eq!(statements.len(), 1, "{text}");
            assert_eq!(statements[0].verb, "set", "{text}");
        }
    }
}
