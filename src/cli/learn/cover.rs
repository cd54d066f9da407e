//! From actions to few rules: what differs in numbers and names of things alone is one pattern, and
//! what has the same verbs is one rule. *Pure.*

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::seen::{Action, Change, PLAIN, Reads, Seen};
use crate::channel::visible::is_hidden;

/// A rule that was learned.
pub(super) struct Learned {
    pub(super) name: String,
    pub(super) endpoint: Arc<str>,
    pub(super) credential: Option<Arc<str>>,
    pub(super) condition: String,
    pub(super) priority: i64,
    pub(super) count: u64,
}

impl Learned {
    pub(super) fn to_hcl(&self) -> String {
        let escaped = self
            .condition
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace("${", "$${")
            .replace("%{", "%%{");
        let credential = match &self.credential {
            Some(key) => format!("  credential = {key}\n"),
            None => String::new(),
        };
        format!(
            "# {} actions\nrule \"{}\" {{\n  endpoint  = {}\n{credential}  condition = \"{escaped}\"\n  \
             verdict   = \"allow\"\n  priority  = {}\n}}",
            self.count, self.name, self.endpoint, self.priority
        )
    }
}

/// A path whose parts that are numbers, hashes or UUIDs stand for any; a regular expression.
fn pattern(path: &str) -> String {
    let parts = path.split('/').map(|part| {
        let hex = part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        match (number, hex) {
            (true, _) => "[0-9]+".to_owned(),
            (_, true) => "[0-9A-Fa-f-]+".to_owned(),
            _ => regex::escape(part),
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// A text as a CEL literal.
fn quote(text: &str) -> String {
    let mut out = String::from("'");
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            char if is_hidden(char) => out.push_str(&format!("\\U{:08x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('\'');
    out
}

fn list<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    format!(
        "[{}]",
        texts
            .into_iter()
            .map(|text| quote(text))
            .collect::<Vec<_>>()
            .join(", ")
    )
}

/// What is allowed, by what allows it: keys that share a set of verbs become one rule.
fn merge<K: Ord + Clone>(seen: &[(K, String)]) -> Vec<(BTreeSet<String>, BTreeMap<K, u64>)> {
    let mut verbs: BTreeMap<K, (BTreeSet<String>, u64)> = BTreeMap::new();
    for (key, verb) in seen {
        let entry = verbs.entry(key.clone()).or_default();
        entry.0.insert(verb.clone());
        entry.1 += 1;
    }
    let mut rules: BTreeMap<BTreeSet<String>, BTreeMap<K, u64>> = BTreeMap::new();
    for (key, (verbs, count)) in verbs {
        rules.entry(verbs).or_default().insert(key, count);
    }
    rules.into_iter().collect()
}

/// How paths are learned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// Numbers, hashes and UUIDs stand for any.
    Patterns,
    /// As they are.
    Exact,
}

/// The rules that cover what was seen, and nothing of another kind.
pub(super) fn cover(profile: &str, seen: &[Seen], priority: i64, paths: Paths) -> Vec<Learned> {
    let mut places: BTreeMap<_, Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        let place = (one.endpoint.clone(), one.credential.clone());
        places.entry(place).or_default().push(one);
    }
    let mut learned = Vec::new();
    for ((endpoint, credential), own) in places {
        for (condition, count) in http(&own, paths)
            .into_iter()
            .chain(graphql(&own))
            .chain(sql(&own))
            .chain(k8s(&own))
            .chain(mcp(&own))
        {
            learned.push(Learned {
                name: format!("learned-{profile}-{}", learned.len() + 1),
                endpoint: endpoint.clone(),
                credential: credential.clone(),
                priority,
                condition: format!("agent.profile == {} && {condition}", quote(profile)),
                count,
            });
        }
    }
    learned
}

fn http(own: &[&Seen], paths: Paths) -> Vec<(String, u64)> {
    let pattern = |path: &String| match paths {
        Paths::Patterns => pattern(path),
        Paths::Exact => regex::escape(path),
    };
    let seen: Vec<(String, String)> = own
        .iter()
        .filter_map(|one| match &one.action {
            Action::Http(method, path) => Some((pattern(path), method.clone())),
            _ => None,
        })
        .collect();
    let rules = merge(&seen).into_iter().map(|(methods, paths)| {
        let all: Vec<&str> = paths.keys().map(String::as_str).collect();
        let pattern = quote(&format!("^(?:{})$", all.join("|")));
        let condition = format!(
            "http.method in {} && http.path.matches({pattern})",
            list(&methods)
        );
        (condition, paths.values().sum())
    });
    rules.collect()
}

fn graphql(own: &[&Seen]) -> Vec<(String, u64)> {
    let mut rules: BTreeMap<(&String, &String), (BTreeSet<String>, u64)> = BTreeMap::new();
    for one in own {
        if let Action::Graphql(path, kind, fields) = &one.action {
            let entry = rules.entry((path, kind)).or_default();
            entry.0.extend(fields.iter().cloned());
            entry.1 += 1;
        }
    }
    let rules = rules.into_iter().map(|((path, kind), (fields, count))| {
        let condition = format!(
            "http.path == {} && http.graphql.kind == {} && http.graphql.fields.all(f, f in {})",
            quote(path),
            quote(kind),
            list(&fields)
        );
        (condition, count)
    });
    rules.collect()
}

/// Messages of one kind are one rule, but those that name a tool, a prompt or a resource: these are
/// one rule for each method.
fn mcp(own: &[&Seen]) -> Vec<(String, u64)> {
    let mut plain: BTreeMap<&String, (BTreeSet<String>, u64)> = BTreeMap::new();
    let mut named: BTreeMap<(&String, &String, &str), (BTreeSet<String>, u64)> = BTreeMap::new();
    for one in own {
        let Action::Mcp(kind, method, about) = &one.action else {
            continue;
        };
        let (entry, name) = match about {
            Some((fact, name)) => (named.entry((kind, method, fact)).or_default(), name),
            None => (plain.entry(kind).or_default(), method),
        };
        entry.0.insert(name.clone());
        entry.1 += 1;
    }
    let plain = plain.into_iter().map(|(kind, (methods, count))| {
        let kind = quote(kind);
        (
            format!("mcp.kind == {kind} && mcp.method in {}", list(&methods)),
            count,
        )
    });
    let named = named.into_iter().map(|((kind, method, fact), (names, count))| {
        let (kind, method) = (quote(kind), quote(method));
        let names = list(&names);
        (
            format!("mcp.kind == {kind} && mcp.method == {method} && mcp.{fact} in {names}"),
            count,
        )
    });
    plain.chain(named).collect()
}

/// Statements that change the same by the same means are one rule, whatever of the tables and columns seen they
/// read.
fn sql(own: &[&Seen]) -> Vec<(String, u64)> {
    let mut rules: BTreeMap<&Change, (Reads, u64)> = BTreeMap::new();
    for one in own {
        if let Action::Sql(change, reads) = &one.action {
            let entry = rules.entry(change).or_default();
            entry.0.tables.extend(reads.tables.iter().cloned());
            entry.0.columns.extend(reads.columns.iter().cloned());
            entry.0.texts.extend(reads.texts.iter().cloned());
            entry.1 += 1;
        }
    }
    let rules = rules.into_iter().map(|(change, (reads, count))| {
        let whole = |fact: &str, items: &BTreeSet<String>| {
            let each = items.iter().map(|item| format!("{} in sql.{fact}", quote(item)));
            let within = format!("sql.{fact}.all(x, x in {})", list(items));
            std::iter::once(within)
                .chain(each)
                .collect::<Vec<_>>()
                .join(" && ")
        };
        let mut parts = vec![
            whole("verbs", &change.verbs),
            format!("sql.reads.all(x, x in {})", list(&reads.tables)),
            format!("sql.columns.all(x, x in {})", list(&reads.columns)),
            whole("writes", &change.writes),
            whole("objects", &change.objects),
            whole("functions", &change.functions),
        ];
        if !reads.texts.is_empty() {
            parts.push(format!("sql.statement in {}", list(&reads.texts)));
        }
        // A statement that has one does less than one that has none.
        if change.has_where {
            parts.push("sql.has_where".to_owned());
        }
        parts.extend(PLAIN.iter().map(|name| format!("!sql.{name}")));
        (parts.join(" && "), count)
    });
    rules.collect()
}

fn k8s(own: &[&Seen]) -> Vec<(String, u64)> {
    let seen: Vec<([String; 3], String)> = own
        .iter()
        .filter_map(|one| match &one.action {
            Action::K8s(verb, place) => Some((place.clone(), verb.clone())),
            _ => None,
        })
        .collect();
    let rules = merge(&seen).into_iter().map(|(verbs, places)| {
        let each = places.keys().map(|[group, resource, namespace]| {
            format!(
                "(k8s.group == {} && k8s.resource == {} && k8s.namespace == {})",
                quote(group),
                quote(resource),
                quote(namespace)
            )
        });
        let any = each.collect::<Vec<_>>().join(" || ");
        (
            format!("k8s.verb in {} && ({any})", list(&verbs)),
            places.values().sum(),
        )
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Family;

    #[test]
    fn what_differs_in_numbers_alone_is_one_rule() {
        let endpoint: Arc<str> = "https.api".into();
        let seen: Vec<Seen> = [
            ("get", "/a/1"),
            ("get", "/a/22"),
            ("get", "/b.c"),
            ("put", "/b.c"),
            ("get", "/d/it's"),
        ]
        .iter()
        .filter_map(|(method, path)| {
            let record = serde_json::json!({ "facts": { "method": method, "path": path } });
            Seen::read(Family::Http, &endpoint, &record)
        })
        .collect();
        let learned = cover("ci", &seen, -1, Paths::Patterns);
        let said: Vec<(&str, u64)> = learned
            .iter()
            .map(|rule| (rule.condition.as_str(), rule.count))
            .collect();
        assert_eq!(
            said,
            [
                (
                    r"agent.profile == 'ci' && http.method in ['get'] && http.path.matches('^(?:/a/[0-9]+|/d/it\'s)$')",
                    3
                ),
                (
                    r"agent.profile == 'ci' && http.method in ['get', 'put'] && http.path.matches('^(?:/b\\.c)$')",
                    2
                ),
            ]
        );
        assert!(learned[0].to_hcl().contains(r"it\\'s"));
    }
}
