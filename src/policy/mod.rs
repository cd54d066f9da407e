//! HCL in, a compiled policy out, and from it a verdict for every action. *Pure.*
//!
//! A [`Policy`] is an immutable snapshot. Loading either yields one whole policy or every
//! diagnostic that was found. [`Policy::evaluate`] is total: it never panics, and whatever it
//! cannot decide it denies.

mod analysis;
pub mod cel;
mod coverage;
pub mod diagnostic;
mod explain;
mod hcl;
mod index;
mod load;
pub mod model;
mod named;
pub mod place;
mod recorded;
mod rule;
mod shown;
#[cfg(feature = "daemon")]
pub mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::facts::{FactSet, FactSource, Mask};
use crate::identity::{Agent, Identity, Transport};
use crate::verdict::Verdict;

use rule::Rules;

pub use cel::coverage::Times;
pub use coverage::{Coverage, CoveredOperand, CoveredRule, Share};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use explain::Step;
pub use load::login_matches;
pub use model::*;
pub use named::Named;
pub use recorded::RecordedFacts;
pub use shown::ShownRule;

/// What a configuration and its conditions may hold, for editors.
#[cfg(feature = "daemon")]
pub(crate) mod guide {
    pub(crate) use super::cel::manual;
    pub(crate) use super::load::Kind;
    pub(crate) use super::load::table::{FILE, Field, HELD, Shape, Table, blocks, family, kind, types};
}

/// One configuration file, already read.
#[derive(Clone, Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// How the loader reads files that a policy names (`<<file:ca.pem>>`): path in, text out.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// A compiled, immutable policy.
#[derive(Debug)]
pub struct Policy {
    pub(crate) model: Model,
    rules: Rules,
    mask: Mask,
    notes: Diagnostics,
    version: u64,
    files: Vec<PathBuf>,
}

/// The verdict on one action, with what shadow rules would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    /// Rules in shadow mode that matched before the deciding one, as `rule=verdict`.
    pub shadow: Vec<String>,
    /// How often the deciding rule lets actions pass.
    pub limits: Option<Arc<[Limit]>>,
}

impl Judgement {
    /// A verdict that no rule limits or shadows.
    pub fn plain(verdict: Verdict) -> Judgement {
        Judgement {
            verdict,
            shadow: Vec::new(),
            limits: None,
        }
    }
}

impl Policy {
    /// Reads, resolves and compiles. `read` is asked for the files that the policy names.
    ///
    /// # Errors
    /// Everything that is wrong, at once, each with its place.
    pub fn load(sources: Vec<Source>, read: ReadFile<'_>) -> Result<Policy, Diagnostics> {
        let named = Named::default();
        let loaded = load::load(&sources, &|path| named.read(path, read))?;
        Ok(Policy {
            rules: Rules::new(&loaded.model, loaded.rules),
            mask: mask(&loaded.model),
            model: loaded.model,
            notes: loaded.notes,
            version: version_of(&sources, &named),
            files: named.paths(),
        })
    }

    /// The resolved configuration.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What hides credentials from records, the slots that this configuration names included.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// What is accepted and does not do what its writer may expect.
    pub fn notes(&self) -> &Diagnostics {
        &self.notes
    }

    /// A hash of the sources: the same text has the same version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The files that it names, beside those that it is written in.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// How many rules are walked (disabled ones are not).
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The profile that claims an identity. Tags, logins, nodes and grants are the tailnet's;
    /// `peers` are WireGuard's, so that neither can take the other's name.
    ///
    /// # Errors
    /// None or several profiles claim it; the text says which.
    pub fn profile_for(&self, identity: &Identity) -> Result<Arc<str>, String> {
        let mut found = self.claiming(identity);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.name.clone()),
            (Some(one), Some(two)) => Err(format!(
                "the profiles `{}` and `{}` both claim {}",
                one.name, two.name, identity.node
            )),
            (None, _) => Err(format!("no profile claims {}", identity.node)),
        }
    }

    /// Whether an identity is an agent's: a profile claims it, or several do and it gets none.
    pub fn is_claimed(&self, identity: &Identity) -> bool {
        self.claiming(identity).next().is_some()
    }

    fn claiming<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Profile> {
        let login = identity.login.as_deref().map(str::to_ascii_lowercase);
        let claims = move |profile: &&Profile| match identity.transport {
            Transport::Wireguard => profile.peers.contains(&identity.node),
            Transport::Tailnet => {
                profile.tags.iter().any(|tag| identity.tags.contains(tag))
                    || profile.nodes.contains(&identity.node)
                    || profile.grants.iter().any(|grant| identity.grants.contains(grant))
                    || login.as_deref().is_some_and(|login| {
                        profile
                            .logins
                            .iter()
                            .filter(|pattern| !identity.is_guest || !pattern.starts_with('*'))
                            .any(|pattern| load::login_matches(pattern, login))
                    })
            }
        };
        self.model
            .profiles
            .iter()
            .map(|profile| &**profile)
            .filter(claims)
    }

    /// The facts that any rule reads which may apply to `agent`'s actions on `endpoint`.
    pub fn needs(&self, agent: &Agent, endpoint: &str) -> FactSet {
        self.rules.needs(agent, endpoint)
    }

    /// Whether a rule of the endpoint tells SQL names by their schemas, so that it matters where a session
    /// looks up those that have none.
    pub fn names_schemas(&self, endpoint: &str) -> bool {
        self.rules.names_schemas(endpoint)
    }

    /// Judges one request at a time, which conditions read as `now`. Total: what it cannot decide
    /// it denies.
    pub fn evaluate(
        &self,
        agent: &Agent,
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> Judgement {
        let who = (&*agent.profile, agent as &dyn FactSource);
        self.rules.judge(who, endpoint, credential, (facts, now), ())
    }

    /// As [`Policy::evaluate`], for an agent of whom there is a record: its profile and its facts.
    pub fn evaluate_recorded(
        &self,
        agent: (&str, &dyn FactSource),
        endpoint: &str,
        credential: Option<&str>,
        facts: &dyn FactSource,
        now: DateTime<Utc>,
    ) -> Judgement {
        self.rules.judge(agent, endpoint, credential, (facts, now), ())
    }
}

/// A number that changes whenever the texts do, those of the named files included; what [`Policy::version`] will be.
pub fn version_of(sources: &[Source], named: &Named) -> u64 {
    let digest = named.digest(sources);
    let mut head = [0u8; 8];
    for (to, from) in head.iter_mut().zip(digest.as_bytes()) {
        *to = *from;
    }
    u64::from_be_bytes(head)
}

fn mask(model: &Model) -> Mask {
    let (mut headers, mut parameters) = (Vec::new(), Vec::new());
    for credential in &model.credentials {
        match &credential.kind {
            CredentialKind::Header { header, .. } => headers.push(header.as_str()),
            CredentialKind::Query { parameter } => parameters.push(parameter.as_str()),
            _ => {}
        }
    }
    Mask::new(&headers, &parameters)
}

#[cfg(test)]
mod tests;
