//! What a judge answers, and what it says where it answers nothing. *Pure.*
//!
//! Invariant: an answer that is not exactly the object that was asked for, whole, is no answer.

use serde::Deserialize;
use serde_json::Value;

use super::COMPLETION_TOKENS;
use crate::policy::Provider;

/// Bytes of the reason that is kept.
pub const REASON_BYTES_MAX: usize = 1024;

/// Characters of a server's name for what is wrong.
pub const TROUBLE_CHARS_MAX: usize = 64;

/// What they say where no money or quota is left.
const SPENT: &[&str] = &[
    "credit_balance_exhausted",
    "enforced_spend_limit_reached",
    "insufficient_quota",
    "organization_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "project_spend_limit_exceeded",
];

/// What a judge said.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    pub allow: bool,
    pub reason: String,
    /// From 0 to 1.
    pub confidence: f64,
}

/// An answer, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// What it said; that is none where it was refused, cut off or is of another form. It is paid for all the same.
    pub opinion: Result<Opinion, NoAnswer>,
    /// As the server says, of the question and of the answer; not every server does.
    pub tokens: Option<u64>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("the answer is not of the API's form: {0}")]
    Form(String),
    #[error("the model ended with `{0}`")]
    Ended(String),
    #[error("the model's words are not the object that was asked for")]
    Words,
}

/// What a server says that does not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubled {
    /// Its name for what is wrong (`overloaded_error`), where it has one.
    pub name: Option<String>,
    /// It does not know how the answer's tokens were limited.
    pub is_of_limit: bool,
    /// Nothing is left to spend: to ask again is of no use.
    pub is_spent: bool,
}

/// Reads an answer. A refusal and one that was cut off are none.
pub fn read(provider: Provider, body: &[u8]) -> Answered {
    match provider {
        Provider::Anthropic => anthropic(body),
        Provider::Openai => openai(body),
    }
}

fn anthropic(body: &[u8]) -> Answered {
    let answer: Message = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => return formless(&error),
    };
    let tokens = answer.usage.as_ref().map(|usage| {
        [
            usage.input_tokens,
            // What a cache took or gave is not among the input's.
            usage.cache_creation_input_tokens.unwrap_or_default(),
            usage.cache_read_input_tokens.unwrap_or_default(),
            usage.output_tokens,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    });
    let ended = answer.stop_reason.unwrap_or_default();
    // What the model thought stands before its text, in blocks of their own.
    let mut texts = answer.content.into_iter().filter(|block| block.kind == "text");
    let opinion = match (ended == "end_turn", texts.next(), texts.next()) {
        (false, ..) => Err(NoAnswer::Ended(ended)),
        (true, Some(Block { text: Some(text), .. }), None) => opinion(&text),
        (true, ..) => Err(NoAnswer::Words),
    };
    Answered { opinion, tokens }
}

fn openai(body: &[u8]) -> Answered {
    let answer: Completion = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => return formless(&error),
    };
    let tokens = answer.usage.map(|usage| usage.total_tokens);
    let mut choices = answer.choices.into_iter();
    let opinion = match (choices.next(), choices.next()) {
        (Some(choice), None) => chosen(choice),
        _ => Err(NoAnswer::Words),
    };
    Answered { opinion, tokens }
}

fn chosen(choice: Choice) -> Result<Opinion, NoAnswer> {
    let ended = choice.finish_reason.unwrap_or_default();
    if ended != "stop" {
        return Err(NoAnswer::Ended(ended));
    }
    if choice.message.refusal.is_some() {
        return Err(NoAnswer::Ended("refusal".to_owned()));
    }
    opinion(&choice.message.content.ok_or(NoAnswer::Words)?)
}

fn formless(error: &serde_json::Error) -> Answered {
    Answered {
        opinion: Err(NoAnswer::Form(error.to_string())),
        tokens: None,
    }
}

/// What the body of a status that is no success says: `{"error": {"type", "code", "message"}}` in both APIs.
pub fn troubled(body: &[u8]) -> Troubled {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let names = ["/error/details/error_code", "/error/code", "/error/type"].map(|at| {
        // A name of theirs, and not their words: those may hold what they were sent.
        let fits = |char: char| char.is_ascii_alphanumeric() || "_-.".contains(char);
        let name = said.pointer(at).and_then(Value::as_str)?;
        (!name.is_empty() && name.len() <= TROUBLE_CHARS_MAX && name.chars().all(fits)).then_some(name)
    });
    Troubled {
        name: names.into_iter().flatten().next().map(str::to_owned),
        is_of_limit: memchr::memmem::find(body, COMPLETION_TOKENS.as_bytes()).is_some(),
        is_spent: names.into_iter().flatten().any(|name| SPENT.contains(&name)),
    }
}

fn opinion(text: &str) -> Result<Opinion, NoAnswer> {
    let words: Words = serde_json::from_str(text).map_err(|_| NoAnswer::Words)?;
    if !(0.0..=1.0).contains(&words.confidence) {
        return Err(NoAnswer::Words);
    }
    let mut reason: String = words.reason.chars().filter(|char| !char.is_control()).collect();
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Ok(Opinion {
        allow: matches!(words.verdict, Said::Allow),
        reason,
        confidence: words.confidence,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    verdict: Said,
    reason: String,
    confidence: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Allow,
    Deny,
}

#[derive(Deserialize)]
struct Message {
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<MessageUsage>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct MessageUsage {
    input_tokens: u64,
    output_tokens: u64,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<CompletionUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: ChoiceMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct ChoiceMessage {
    content: Option<String>,
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct CompletionUsage {
    total_tokens: u64,
}

#[cfg(test)]
mod tests;
