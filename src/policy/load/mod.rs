//! From HCL to the [`Model`] and the rules: reads every block, resolves every reference, and
//! reports every error. *Pure.*

mod approver;
mod bounds;
mod channel;
mod credential;
mod endpoint;
mod gateway;
mod operators;
mod preview;
mod profile;
mod rule;
pub(crate) mod table;
mod tailscale;

use std::collections::HashMap;
use std::sync::Arc;

use hcl_edit::structure::{Block, Body};

use super::diagnostic::{At, Diagnostic, Diagnostics, nearest};
use super::hcl::{self, Fields, Findings, Reference};
use super::rule::Rule;
use super::{Model, ReadFile, Source};
pub use profile::login_matches;
pub(super) use rule::raw_offset;

/// What a reference may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Endpoint,
    Credential,
    Approver,
    Channel,
    Tunnel,
    Policy,
    Environment,
    Profile,
    Rule,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Endpoint => "endpoint",
            Kind::Credential => "credential",
            Kind::Approver => "approver",
            Kind::Channel => "channel",
            Kind::Tunnel => "tunnel",
            Kind::Policy => "policy",
            Kind::Environment => "environment",
            Kind::Profile => "profile",
            Kind::Rule => "rule",
        }
    }

    /// The number of labels of its block.
    pub(crate) fn labels(self) -> usize {
        match self {
            Kind::Policy | Kind::Profile | Kind::Rule => 1,
            _ => 2,
        }
    }
}

const KINDS: [Kind; 9] = [
    Kind::Endpoint,
    Kind::Credential,
    Kind::Approver,
    Kind::Channel,
    Kind::Tunnel,
    Kind::Policy,
    Kind::Environment,
    Kind::Profile,
    Kind::Rule,
];

/// A block with its file.
#[derive(Clone, Copy)]
struct Placed<'a> {
    file: usize,
    block: &'a Block,
}

/// A labelled block: its kind, its key (`type.name`, or the name alone) and its labels.
struct Declared<'a> {
    kind: Kind,
    key: String,
    type_name: &'a str,
    name: &'a str,
    at: At,
    placed: Placed<'a>,
}

/// What the parts of the loader share.
pub(super) struct Loader<'a> {
    findings: &'a Findings<'a>,
    declared: Vec<Declared<'a>>,
    names: HashMap<(Kind, String), At>,
    model: Model,
    rules: Vec<Rule>,
}

/// What a load yields.
pub(super) struct Loaded {
    pub(super) model: Model,
    pub(super) rules: Vec<Rule>,
    pub(super) notes: Diagnostics,
}

/// Parses, resolves and compiles.
pub(super) fn load(sources: &[Source], read: ReadFile<'_>) -> Result<Loaded, Diagnostics> {
    let findings = Findings::new(sources, read);
    load_into(&findings)
}

fn load_into(findings: &Findings<'_>) -> Result<Loaded, Diagnostics> {
    let sources = findings.sources;
    let bodies = parse(findings);
    let mut loader = Loader {
        findings,
        declared: Vec::new(),
        names: HashMap::new(),
        model: Model::default(),
        rules: Vec::new(),
    };
    loader.walk(&bodies);
    let (model, rules, names) = (loader.model, loader.rules, loader.names);
    let errors = findings.errors.take();
    if errors.is_empty() {
        let place = |kind: Kind, name: &str| names.get(&(kind, name.to_owned())).copied().unwrap_or_default();
        for note in super::analysis::notes(&model, &rules, &place) {
            findings.note(note);
        }
        let notes = Diagnostics::new(sources, findings.notes.take());
        return Ok(Loaded { model, rules, notes });
    }
    Err(Diagnostics::new(sources, errors))
}

fn parse(findings: &Findings<'_>) -> Vec<(usize, Body)> {
    let mut bodies = Vec::new();
    for (file, source) in findings.sources.iter().enumerate() {
        match hcl_edit::parser::parse_body(&source.text) {
            Ok(body) => bodies.push((file, body)),
            Err(error) => {
                let mut start = error.location().offset().min(source.text.len());
                while !source.text.is_char_boundary(start) {
                    start -= 1;
                }
                let place = At {
                    file,
                    start,
                    end: start,
                };
                findings.error(Diagnostic::new(place, format!("not HCL: {}", error.message())));
            }
        }
    }
    bodies
}

impl<'a> Loader<'a> {
    fn walk(&mut self, bodies: &'a [(usize, Body)]) {
        let mut singles: HashMap<&str, Vec<Placed<'a>>> = HashMap::new();
        for (file, body) in bodies {
            for block in body.blocks() {
                let placed = Placed { file: *file, block };
                let ident = block.ident.value().as_str();
                match KINDS.iter().find(|kind| kind.name() == ident) {
                    Some(kind) => self.declare(*kind, placed),
                    None => singles.entry(ident_of(block)).or_default().push(placed),
                }
            }
        }
        self.top_level(bodies, &singles);
        for (ident, placed) in &singles {
            if !table::blocks().any(|(name, _)| name == *ident) {
                for placed in placed {
                    self.unknown_block(*placed);
                }
            }
        }
        self.endpoints();
        self.credentials();
        self.channels();
        self.approvers();
        self.inert_blocks();
        self.profiles();
        self.top_rules();
        self.check_profiles();
    }

    fn unknown_block(&self, placed: Placed<'a>) {
        let ident = placed.block.ident.value().as_str();
        let names = || table::blocks().map(|(name, _)| name);
        let near = nearest(ident, names()).map_or(String::new(), |near| format!("did you mean `{near}`? "));
        let help = format!("{near}There are: {}", names().collect::<Vec<_>>().join(", "));
        let place = hcl::at(placed.file, hcl_edit::Span::span(&placed.block.ident));
        self.findings
            .error(Diagnostic::new(place, format!("there is no block `{ident}`")).help(help));
    }

    /// Takes a labelled block's name.
    fn declare(&mut self, kind: Kind, placed: Placed<'a>) {
        let block = placed.block;
        let at = hcl::at(placed.file, hcl_edit::Span::span(&block.ident));
        let labels: Vec<&str> = block.labels.iter().map(|label| label.as_str()).collect();
        let (type_name, name, key) = match (kind.labels(), labels.as_slice()) {
            (1, [name]) => ("", *name, (*name).to_owned()),
            (2, [type_name, name]) => (*type_name, *name, format!("{type_name}.{name}")),
            (count, _) => {
                let wanted = if count == 1 {
                    "\"name\""
                } else {
                    "\"type\" \"name\""
                };
                let message = format!("`{}` has {} labels and needs {count}", kind.name(), labels.len());
                self.findings.error(
                    Diagnostic::new(at, message).help(format!("write {} {wanted} {{ … }}", kind.name())),
                );
                return;
            }
        };
        if let Some(first) = self.names.get(&(kind, key.clone())) {
            self.findings.error(
                Diagnostic::new(at, format!("{} `{key}` is declared twice", kind.name())).other(*first),
            );
            return;
        }
        self.names.insert((kind, key.clone()), at);
        self.declared.push(Declared {
            kind,
            key,
            type_name,
            name,
            at,
            placed,
        });
    }

    fn of_kind(&self, kind: Kind) -> Vec<(String, &'a str, &'a str, At, Placed<'a>)> {
        let own = self.declared.iter().filter(|declared| declared.kind == kind);
        own.map(|one| (one.key.clone(), one.type_name, one.name, one.at, one.placed))
            .collect()
    }

    fn fields(&self, placed: Placed<'a>) -> Fields<'a> {
        Fields::of_block(self.findings, placed.file, placed.block)
    }

    /// The key that a reference of this kind means; an error if it means nothing.
    fn resolve(&self, kind: Kind, reference: &Reference) -> Option<Arc<str>> {
        let written = reference.value.as_str();
        let key = match kind.labels() {
            1 => written
                .strip_prefix(kind.name())
                .and_then(|rest| rest.strip_prefix('.'))
                .unwrap_or(written),
            _ => written,
        };
        if self.names.contains_key(&(kind, key.to_owned())) {
            return Some(key.into());
        }
        let wanted = kind.name();
        let other = KINDS
            .iter()
            .find(|other| self.names.contains_key(&(**other, key.to_owned())));
        let names = || {
            self.names
                .keys()
                .filter(|(own, _)| *own == kind)
                .map(|(_, name)| name.as_str())
        };
        let mut same: Vec<&str> = names()
            .filter(|name| {
                name.split_once('.')
                    .is_some_and(|(_, own)| own == key || key.ends_with(&format!(".{own}")))
            })
            .collect();
        same.sort_unstable();
        let help = match (same.first(), nearest(key, names())) {
            (Some(same), _) => format!("did you mean `{same}`?"),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) if kind.labels() == 1 => format!("a reference to a {wanted} is `{wanted}.name`"),
            (None, None) => format!("a reference to a {wanted} is `type.name`, by the labels of its block"),
        };
        let message = match other {
            Some(other) => format!("`{written}` is of kind {} and not {wanted}", other.name()),
            None => format!("there is no {wanted} `{written}`"),
        };
        self.findings
            .error(Diagnostic::new(reference.at, message).help(help));
        None
    }

    /// `endpoint` and `endpoints` of a block, resolved.
    fn endpoint_refs(&self, fields: &Fields<'a>) -> Vec<(Arc<str>, At)> {
        let mut references = fields.references("endpoints");
        references.extend(fields.reference("endpoint"));
        let mut keys: Vec<(Arc<str>, At)> = Vec::new();
        for reference in &references {
            if let Some(key) = self.resolve(Kind::Endpoint, reference)
                && !keys.iter().any(|(own, _)| *own == key)
            {
                keys.push((key, reference.at));
            }
        }
        keys
    }

    fn inert_blocks(&self) {
        for (_, type_name, _, _, placed) in self.of_kind(Kind::Tunnel) {
            let fields = self.fields(placed);
            if let Some(via) = fields.reference("via") {
                self.resolve(Kind::Tunnel, &via);
            }
            if let Some(credential) = fields.reference("credential") {
                self.resolve(Kind::Credential, &credential);
            }
            let message = format!(
                "{} is read and not started: tunnels of type {type_name} are not built here",
                fields.title
            );
            let help = "an endpoint behind it is dialled directly; give the endpoint an `upstream`";
            self.findings.note(Diagnostic::new(fields.at, message).help(help));
        }
        for (_, _, _, _, placed) in self.of_kind(Kind::Environment) {
            let fields = self.fields(placed);
            let message = format!("{} has no effect here", fields.title);
            let help = "`tailkeep env` prints the placeholders and CA variables only";
            self.findings.note(Diagnostic::new(fields.at, message).help(help));
        }
    }
}

fn ident_of(block: &Block) -> &str {
    block.ident.value().as_str()
}
