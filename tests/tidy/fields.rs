//! Every field of the configuration has a test that fails if it is ignored, or is said to have no effect.
//!
//! The fields are the loader's own: what it says that a block may have, when it is asked for a field that
//! no block has. So a new field, block or type without a line in [`FIELDS`] fails here.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use tailkeep::policy::{Diagnostics, Policy, Source};

use table::{ALIASES, BLOCKS, FIELDS, Proof, WHOLE};

/// A field that no block has, nor one that is near it.
const STRANGE: &str = "zzzzzzzzzzzzzzzz";

/// What the lines of the table may refer to.
const AROUND: &str = r#"
endpoint "https" "api" { hosts = ["api.test"] }
credential "bearer_token" "token" { endpoint = https.api }
approver "human_approver" "person" {}
channel "ntfy" "push" {
  url   = "https://push.test"
  topic = "t"
}
policy "words" { text = "be strict" }
environment "custom_environment" "region" {
  key = "R"
}
tunnel "local_command" "proxy" {
  command = ["x"]
}
"#;

fn load(text: &str) -> Result<Policy, Diagnostics> {
    let source = Source {
        path: "dir/policy.hcl".into(),
        text: format!("{text}\n{AROUND}"),
    };
    Policy::load(vec![source], &|_| Ok("-----BEGIN CERTIFICATE-----".to_owned()))
}

/// The text of a block with more lines in it.
fn block(name: &str, lines: &str) -> String {
    let (_, text) = BLOCKS
        .iter()
        .find(|(own, _)| *own == name)
        .unwrap_or_else(|| panic!("the table has no block {name}"));
    let names_hosts = ["hosts", "host ", "server"]
        .iter()
        .any(|name| lines.starts_with(name));
    let hosts = if names_hosts { "hosts = [\"x.test\"]\n" } else { "" };
    text.replacen(hosts, "", 1).replace('@', lines)
}

/// The fields that a block may have, as the loader says.
fn asked(name: &str) -> Vec<String> {
    let errors = load(&block(name, &format!("{STRANGE} = 1")))
        .map(drop)
        .unwrap_err();
    let error = errors
        .items()
        .iter()
        .find(|item| item.message.contains(STRANGE))
        .unwrap_or_else(|| panic!("{name}: {}", errors.render()));
    let help = error.help.as_deref().unwrap_or_default();
    let (_, list) = help
        .split_once("t may have: ")
        .unwrap_or_else(|| panic!("{name}: {help}"));
    list.split(", ").map(str::to_owned).collect()
}

/// The names that an error lists behind "There are: ".
fn there_are(text: &str) -> BTreeSet<String> {
    let errors = load(text).map(drop).unwrap_err();
    let mut helps = errors.items().iter().filter_map(|item| item.help.as_deref());
    let list = helps.find_map(|help| Some(help.rsplit_once("here are: ")?.1.to_owned()));
    let list = list.unwrap_or_else(|| panic!("{}", errors.render()));
    list.split(", ").map(str::to_owned).collect()
}

/// What a text means: its model and its rules.
fn meaning(text: &str) -> Result<String, String> {
    let policy = load(text).map_err(|errors| errors.render())?;
    Ok(format!("{:#?} {:#?}", policy.model(), policy.shown_rules()))
}

fn notes(text: &str) -> Vec<String> {
    let policy = load(text).unwrap_or_else(|errors| panic!("{text}: {}", errors.render()));
    policy
        .notes()
        .items()
        .iter()
        .map(|note| note.message.clone())
        .collect()
}

#[test]
fn every_block_and_type_is_in_the_table() {
    let mut wanted: BTreeSet<String> = BTreeSet::from(["file".to_owned()]);
    for kind in there_are(&format!("{STRANGE} {{}}")) {
        if ["endpoint", "credential", "approver", "channel"].contains(&kind.as_str()) {
            let types = there_are(&format!("{kind} \"{STRANGE}\" \"x\" {{}}"));
            wanted.extend(types.into_iter().map(|own| format!("{kind} {own}")));
        } else {
            wanted.insert(kind);
        }
    }
    let known = |name: &String| {
        BLOCKS.iter().any(|(own, _)| own == name)
            || ALIASES.iter().any(|(own, _)| own == name)
            || WHOLE.iter().any(|(own, _)| own == name)
    };
    let missing: Vec<_> = wanted.iter().filter(|name| !known(name)).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
}

#[test]
fn each_field_has_a_line_and_each_line_a_field() {
    let mut lines: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for (blocks, field, _) in FIELDS {
        for name in *blocks {
            *lines.entry((name, (*field).to_owned())).or_default() += 1;
        }
    }
    let mut wrong: Vec<String> = Vec::new();
    for (name, _) in BLOCKS {
        for field in asked(name) {
            match lines.remove(&(*name, field.clone())) {
                None => wrong.push(format!("{name}.{field} has no test of what it does")),
                Some(1) => {}
                Some(count) => wrong.push(format!("{name}.{field} has {count} lines")),
            }
        }
    }
    wrong.extend(
        lines
            .keys()
            .map(|(name, field)| format!("{name} has no field {field}")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_named_tests_are_there() {
    let mut wrong: Vec<String> = Vec::new();
    for (blocks, field, proof) in FIELDS {
        match proof {
            Proof::Test(file, test) => {
                if let Err(error) = crate::is_a_test(file, test) {
                    wrong.push(format!("{}.{field}: {error}", blocks[0]));
                }
            }
            Proof::Block(name) if !BLOCKS.iter().any(|(own, _)| own == name) => {
                wrong.push(format!("{}.{field}: no block {name}", blocks[0]));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_has_no_effect_is_said_to_have_none() {
    for (blocks, field, proof) in FIELDS {
        let Proof::Inert(line) = proof else { continue };
        assert!(line.starts_with(field), "{field}: {line}");
        for name in *blocks {
            let notes = notes(&block(name, line));
            assert!(
                notes
                    .iter()
                    .any(|note| note.contains(&format!("`{field}")) && note.contains("has no effect here")),
                "{name}.{field}: {notes:#?}"
            );
        }
    }
    for (name, text) in WHOLE {
        let found = notes(text);
        let said = |note: &String| {
            [
                "has no effect here",
                "is read and not started",
                "does not read",
                "cannot inject",
            ]
            .iter()
            .any(|words| note.contains(words))
        };
        assert!(found.iter().any(said), "{name}: {found:#?}");
    }
}

#[test]
fn what_is_another_spelling_means_the_same() {
    for (blocks, field, proof) in FIELDS {
        match proof {
            Proof::Same(line, other) => {
                assert!(line.starts_with(field), "{field}: {line}");
                for name in *blocks {
                    let own = meaning(&block(name, line));
                    assert!(own.is_ok(), "{name}.{field}: {own:?}");
                    assert_ne!(own, meaning(&block(name, "")), "{name}.{field} changes nothing");
                    let is_whole = ["gateway {", "defaults {"]
                        .iter()
                        .any(|start| other.starts_with(start));
                    let other = match is_whole {
                        true => (*other).to_owned(),
                        false => block(name, other),
                    };
                    assert_eq!(own, meaning(&other), "{name}.{field}");
                }
            }
            Proof::Wrong(line) => {
                assert!(load(&block(blocks[0], line)).is_err(), "{field}: {line}");
            }
            _ => {}
        }
    }
    for (name, other) in ALIASES {
        let text = |name: &str, lines: &str| {
            let (kind, own) = name.split_once(' ').unwrap();
            let label = format!("{kind} \"{own}\" \"x\"");
            format!("{label} {{\n{lines}\n}}\n")
        };
        let (same, more) = other.split_once(" + ").unwrap_or((other, ""));
        let (_, given) = BLOCKS.iter().find(|(own, _)| *own == same).unwrap();
        let (own, like) = (name.split(' ').nth(1).unwrap(), same.split(' ').nth(1).unwrap());
        let lines = match given.contains("hosts") {
            true => "hosts = [\"x.test\"]",
            false => "endpoint = https.api",
        };
        let one = meaning(&text(name, lines)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let two = meaning(&text(same, &format!("{lines}\n{more}"))).unwrap();
        assert_eq!(
            one.replace(&format!("{own}.x"), &format!("{like}.x")),
            two,
            "{name}"
        );
    }
}
