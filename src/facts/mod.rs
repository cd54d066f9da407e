//! What a rule may read of an action. *Pure.*
//!
//! Each family has a struct of facts that its protocol fills from the held bytes. A condition
//! reads them by [`Slot`], as a borrowed [`View`]; nothing is copied for a read.
//!
//! Invariant: a fact that could not be had is [`Fact::Unknown`], never an empty value. The policy
//! layer spreads unknowns as CEL does and denies when the outcome hangs on one.

pub(crate) mod escape;
pub mod http;
pub mod json;
pub mod k8s;
pub mod mask;
pub mod mcp;
pub mod slot;
pub mod sql;
pub mod text;

pub use mask::Mask;
pub use slot::{FactSet, Family, Kind, Slot};
pub use text::FactsText;

/// A fact, or the reason why it could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    Known(T),
    Unknown(Blind),
}

/// Why a fact is unknown. It goes to the audit log, never to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blind {
    /// The bytes that hold it were over a named limit.
    Truncated,
    /// The bytes that hold it do not parse.
    Unparseable,
    /// Two readers could understand the bytes differently.
    Ambiguous,
    /// It is decided by code that cannot be read here (a DO block, an encrypted body).
    Opaque,
    /// No rule asked for it when the action was read, so it was not extracted.
    NotRead,
}

impl<T> Fact<T> {
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Fact::Known(value) => Fact::Known(value),
            Fact::Unknown(blind) => Fact::Unknown(*blind),
        }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Fact::Known(value) => Fact::Known(f(value)),
            Fact::Unknown(blind) => Fact::Unknown(blind),
        }
    }

    pub fn known(&self) -> Option<&T> {
        match self {
            Fact::Known(value) => Some(value),
            Fact::Unknown(_) => None,
        }
    }
}

/// A borrowed look at one fact, in the shapes that conditions can use.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// The fact does not apply to this action (no body, no LIMIT).
    Null,
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Texts(&'a [String]),
    /// Names of code that cannot be read: each stands for itself and for whatever its body calls. A condition can
    /// find that one is there, and that all are among those that it lists; that another is not there is unknown.
    Named(&'a [String]),
    Json(&'a json::Document),
    /// `map(string, string)`, in wire order.
    Map(&'a [(String, String)]),
    /// `map(string, list(string))`, keys unique, in wire order.
    MultiMap(&'a [(String, Vec<String>)]),
}

/// Something that holds facts: the facts of an action, or the agent that asks.
pub trait FactSource {
    /// The fact in `slot`. A slot of another family is [`Blind::NotRead`].
    fn fact(&self, slot: Slot) -> Fact<View<'_>>;
}

/// The facts of one action, by family.
#[derive(Clone, Debug)]
pub enum Facts {
    /// An action without facts of its own: a connection's start or a passthrough.
    None,
    Http(Box<http::HttpFacts>),
    Sql(Box<sql::SqlFacts>),
    K8s(Box<k8s::K8sFacts>),
    Mcp(Box<mcp::McpFacts>),
}

impl Facts {
    /// The family, or `None` for an action without facts.
    pub fn family(&self) -> Option<Family> {
        match self {
            Facts::None => None,
            Facts::Http(_) => Some(Family::Http),
            Facts::Sql(_) => Some(Family::Sql),
            Facts::K8s(_) => Some(Family::K8s),
            Facts::Mcp(_) => Some(Family::Mcp),
        }
    }

    /// All facts of the family as one JSON object, for the audit log and for `tailkeep eval`.
    /// An unknown fact stands as `{"unknown": "<why>"}`, with `"named": […]` where names are known, and `"shown": […]` where people
    /// see what no rule reads; a fact that was not read is left out.
    /// Credentials are masked: the agent's own ones have no place in a record.
    pub fn to_json(&self, mask: &Mask) -> serde_json::Value {
        let Some(family) = self.family() else {
            return serde_json::Value::Null;
        };
        let mut object = serde_json::Map::new();
        for slot in Slot::of_family(family) {
            match self.fact(slot) {
                Fact::Unknown(Blind::NotRead) => {}
                Fact::Unknown(blind) => {
                    let mut value = serde_json::json!({ "unknown": blind });
                    if let Some(shown) = self.shown(slot) {
                        value["shown"] = shown.clone();
                        mask.fact(slot, &mut value["shown"]);
                    }
                    object.insert(slot.name().to_owned(), value);
                }
                Fact::Known(view) => {
                    let mut value = view.to_json();
                    mask.fact(slot, &mut value);
                    object.insert(slot.name().to_owned(), value);
                }
            }
        }
        serde_json::Value::Object(object)
    }
}

impl Facts {
    /// What people are shown of a fact that no rule reads.
    fn shown(&self, slot: Slot) -> Option<&serde_json::Value> {
        match (slot, self) {
            (Slot::SqlParameters, Facts::Sql(own)) => own.parameters.apart(),
            _ => None,
        }
    }

    /// About how many bytes of memory they take: a body's values take many times what the body does.
    pub fn bytes(&self) -> usize {
        let Some(family) = self.family() else { return 0 };
        let slots = Slot::of_family(family);
        let known = slots.filter_map(|slot| match self.fact(slot) {
            Fact::Known(view) => Some(view.bytes()),
            Fact::Unknown(_) => None,
        });
        known.sum()
    }
}

/// What a member takes besides its name's text and its value: the name, its hash, its places in a table that has room
/// for more.
const MEMBER_BYTES: usize = 128;

impl Mask {
    /// A fact's value as it may be shown.
    pub fn fact(&self, slot: Slot, value: &mut serde_json::Value) {
        use serde_json::Value;
        let by_name = |value: &mut Value, shown: &dyn Fn(&str, &str) -> String| {
            for (name, value) in value.as_object_mut().into_iter().flatten() {
                let texts = match value {
                    Value::Array(values) => values.as_mut_slice(),
                    value => std::slice::from_mut(value),
                };
                for text in texts {
                    if let Value::String(text) = text {
                        *text = shown(name, text);
                    }
                }
            }
        };
        match slot {
            Slot::HttpHeaders => by_name(value, &|name, text| self.header(name, text).into_owned()),
            Slot::HttpQuery | Slot::HttpForm | Slot::McpQuery | Slot::K8sParams => {
                by_name(value, &|name, text| self.parameter(name, text).into_owned());
            }
            Slot::SqlParameters => self.parameters_json(value),
            _ if slot.family() == Family::Sql => self.sql_json(value),
            _ => self.json(value),
        }
    }
}

impl FactSource for Facts {
    fn fact(&self, slot: Slot) -> Fact<View<'_>> {
        match self {
            Facts::None => Fact::Unknown(Blind::NotRead),
            Facts::Http(facts) => facts.fact(slot),
            Facts::Sql(facts) => facts.fact(slot),
            Facts::K8s(facts) => facts.fact(slot),
            Facts::Mcp(facts) => facts.fact(slot),
        }
    }
}

impl View<'_> {
    /// About how many bytes what it looks at takes.
    fn bytes(self) -> usize {
        let texts = |texts: &[String]| {
            texts
                .iter()
                .map(|text| size_of::<String>() + text.len())
                .sum::<usize>()
        };
        match self {
            View::Null | View::Bool(_) | View::Int(_) => 0,
            View::Text(text) => text.len(),
            View::Texts(values) | View::Named(values) => texts(values),
            View::Json(document) => document.bytes(),
            View::Map(pairs) => pairs.iter().map(|(name, value)| name.len() + value.len()).sum(),
            View::MultiMap(pairs) => pairs
                .iter()
                .map(|(name, values)| MEMBER_BYTES + name.len() + texts(values))
                .sum(),
        }
    }

    /// An owned JSON copy of the value.
    pub fn to_json(self) -> serde_json::Value {
        use serde_json::{Value, json};
        match self {
            View::Null => Value::Null,
            View::Bool(value) => json!(value),
            View::Int(value) => json!(value),
            View::Text(value) => json!(value),
            View::Texts(values) => json!(values),
            View::Named(values) => json!({ "unknown": Blind::Opaque, "named": values }),
            View::Json(document) => document.root().to_value(),
            View::Map(pairs) => pairs.iter().map(|(k, v)| (k.clone(), json!(v))).collect(),
            View::MultiMap(pairs) => pairs.iter().map(|(k, v)| (k.clone(), json!(v))).collect(),
        }
    }
}
