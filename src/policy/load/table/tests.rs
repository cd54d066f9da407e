//! The table against what the loader asks for.

use std::collections::BTreeSet;

use super::super::{load, load_into};
use super::*;
use crate::policy::Source;
use crate::policy::hcl::Findings;

/// A policy with every block, type and nested block. What is only asked for where it is set, is set.
const EVERYTHING: &str = r#"
gateway {
  wireguard {}
  tailscale {
    socket = "/s"
    routes = []
    via {
      site = 1
      cidr = "10.0.0.0/16"
    }
  }
  audit {}
  limits {}
}
defaults {}
endpoint "https" "a" {
  hosts = ["a.example"]
  accept_invalid_certificate = true
}
endpoint "mcp" "b" { hosts = ["b.example"] }
credential "header_token" "c" { header = "x" }
credential "basic_auth" "d" {}
credential "cookie_token" "e" { cookie_name = "e" }
credential "query_token" "f" { parameter = "f" }
credential "mtls_credential" "g" {
  secrets {}
}
credential "postgres_credential" "h" {}
channel "slack" "a" {
  room           = "C1"
  token          = env("T")
  signing_secret = env("S")
  person {
    id   = "U1"
    name = "ann"
  }
}
channel "webhook" "b" {
  url    = "https://b.example"
  secret = env("W")
}
channel "ntfy" "c" {
  url   = "https://c.example"
  topic = "t"
}
channel "email" "d" {
  server = "d.example"
  from   = "a@d.example"
  to     = ["b@d.example"]
}
approver "human_approver" "a" {}
approver "llm_approver" "b" {
  model  = "m"
  policy = policy.p
}
policy "p" { text = "p" }
tunnel "t" "t" {}
environment "e" "e" {}
profile "p" {
  credentials = [{ placeholder = "PH_AAAA", credential = header_token.c }]
  rule "r" {
    endpoint = https.a
    verdict  = "allow"
    limit { rate = "1/s" }
  }
}
"#;

fn sources(text: &str) -> [Source; 1] {
    [Source {
        path: "p.hcl".into(),
        text: text.to_owned(),
    }]
}

fn collect(path: &str, table: &'static Table, into: &mut BTreeSet<(String, &'static str)>) {
    for field in table.fields() {
        if into.insert((path.to_owned(), field.name))
            && let Shape::Block(nested) = field.shape
            && (path, field.name) != ("profile", "rule")
        {
            collect(&format!("{path}.{}", field.name), nested, into);
        }
    }
}

#[test]
fn the_loader_asks_for_what_the_table_has_and_for_nothing_else() {
    let sources = sources(EVERYTHING);
    let read = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let findings = Findings::new(&sources, &read);
    if let Err(errors) = load_into(&findings) {
        panic!("{}", errors.render());
    }
    let mut table = BTreeSet::new();
    collect("", FILE, &mut table);
    for (name, own) in blocks() {
        collect(name, own, &mut table);
    }
    collect("profile.credentials", HELD, &mut table);
    let asked = findings.asked.borrow();
    let missing: Vec<_> = asked.difference(&table).collect();
    assert!(missing.is_empty(), "the table (load/table/) lacks {missing:#?}");
    let unread: Vec<_> = table.difference(&asked).collect();
    assert!(unread.is_empty(), "the loader does not read {unread:#?}");
}

/// The values that the table offers are those that the loader takes.
#[test]
fn every_listed_value_is_taken_and_no_other() {
    let check = |open: &str, table: &'static Table, close: &str| {
        for field in table.fields() {
            let Shape::OneOf(values) = field.shape else {
                continue;
            };
            let said = |value: &str| {
                let text = format!("{open}\n  {} = \"{value}\"\n{close}", field.name);
                let loaded = load(&sources(&text), &|_| Err(std::io::ErrorKind::NotFound.into()));
                match loaded {
                    Ok(loaded) => loaded.notes.render(),
                    Err(errors) => errors.render(),
                }
            };
            for value in values {
                let text = said(value);
                assert!(!text.contains(&format!("`{}`", field.name)), "{value}: {text}");
                assert!(!text.contains(&format!("`{} =", field.name)), "{value}: {text}");
            }
            assert!(
                said("nonsense").contains(&format!("`{}", field.name)),
                "{}",
                field.name
            );
        }
    };
    check("gateway {\nwireguard {", &gateway::WIREGUARD, "}\n}");
    check("defaults {", &gateway::DEFAULTS, "}");
    check(
        "endpoint \"postgres\" \"a\" {\nhost = \"a\"",
        &block::ENDPOINT,
        "}",
    );
    check(
        "approver \"llm_approver\" \"a\" {\nmodel = \"m\"",
        &block::APPROVER,
        "}",
    );
    let endpoint = "endpoint \"https\" \"a\" { hosts = [\"a\"] }\n";
    let rule = format!("{endpoint}rule \"r\" {{\nendpoint = https.a");
    check(&rule, &block::RULE, "}");
    check(
        &format!("{rule}\nlimit {{\nrate = \"1/s\""),
        &block::LIMIT,
        "}\nverdict = \"allow\"\n}",
    );
}

#[test]
fn every_sentence_is_there() {
    for (name, table) in blocks() {
        assert!(table.doc.ends_with('.'), "{name}");
        for field in table.fields() {
            assert!(field.doc.ends_with('.'), "{name}.{}: {}", field.name, field.doc);
        }
    }
    for kind in KINDS {
        assert!(types(kind).iter().all(|(_, doc)| doc.ends_with('.')), "{kind:?}");
    }
}
