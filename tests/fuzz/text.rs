//! Texts: configuration and conditions, invitations.

use std::path::PathBuf;

use tailkeep::client::invite::Invite;
use tailkeep::policy::{Policy, Source};

use crate::{fuzz, spell};

fn load(text: String) -> Result<Policy, tailkeep::policy::Diagnostics> {
    let path = PathBuf::from("policy.hcl");
    Policy::load(vec![Source { path, text }], &|_| {
        Err(std::io::ErrorKind::NotFound.into())
    })
}

const HCL: &[&str] = &[
    "endpoint ",
    "\"https\" ",
    "\"a\" ",
    "{\n",
    "}\n",
    "hosts = ",
    "[",
    "]",
    "\"a.test\"",
    ", ",
    "\n",
    "credential ",
    "rule ",
    "profile ",
    "gateway ",
    "defaults ",
    "= ",
    "true",
    "1",
    "https.a",
    "verdict = \"allow\"\n",
    "condition = ",
    "<<EOT\n",
    "EOT\n",
    "\"${x}\"",
    "env(\"X\")",
    "approve = ",
    "priority = 1\n",
    "// x\n",
    "/* ",
    "tags = ",
    "é",
];

#[test]
fn a_configuration_loads_or_says_where_it_is_wrong() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        for text in [spell(HCL, bytes), String::from_utf8_lossy(bytes).into_owned()] {
            if let Err(errors) = load(text) {
                assert!(!errors.to_string().is_empty());
            }
        }
    });
}

const CEL: &[&str] = &[
    "http.method ",
    "http.path",
    "http.body_json",
    ".a",
    "[0]",
    "['k']",
    "== ",
    "&& ",
    "|| ",
    "! ",
    "? ",
    ": ",
    "(",
    ")",
    "'x' ",
    "1 ",
    "1.5 ",
    "true ",
    "in ",
    ".startsWith('/')",
    ".matches('a+')",
    ".exists(x, x == 'a') ",
    ".all(x, ",
    "has(",
    "size(",
    "[1, 2] ",
    "agent.tags",
    "now",
    "+ ",
    "- ",
    "/ ",
    "0 ",
    "{'a': 1}",
    "timestamp(",
    "duration(",
    "int(",
];

#[test]
fn a_condition_compiles_or_says_where_it_is_wrong() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let condition = spell(CEL, bytes);
        let quoted = serde_json::Value::from(condition).to_string();
        let text = format!(
            "endpoint \"https\" \"a\" {{ hosts = [\"a.test\"] }}\n\
             rule \"r\" {{\n endpoint = https.a\n condition = {quoted}\n verdict = \"allow\"\n}}\n"
        );
        let _ = load(text);
    });
}

#[test]
fn an_invitation() {
    fuzz!(Vec<u8>, |bytes: &Vec<u8>| {
        let text = String::from_utf8_lossy(bytes);
        let _ = Invite::parse(&text);
        let _ = Invite::parse(&format!("tailkeep://127.0.0.1:51821/{text}"));
    });
}
