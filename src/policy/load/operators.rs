//! `operators` of `gateway { tailscale { … } }`: who reaches the admin page on the tailnet.

use super::super::Tailscale;
use super::super::diagnostic::Diagnostic;
use super::super::hcl::Fields;
use super::{Loader, login_matches};
use crate::identity::Identity;

/// How a grant is written among the operators.
const GRANT: &str = "grant:";

impl<'a> Loader<'a> {
    pub(super) fn operators(&self, fields: &Fields<'a>) -> Vec<String> {
        let mut operators = Vec::new();
        for operator in fields.texts("operators") {
            let text = operator.value.to_ascii_lowercase();
            let (name, domain) = text.split_once('@').unwrap_or_default();
            let is_login = !name.is_empty() && !domain.is_empty() && (name == "*" || !name.contains('*'));
            let grant = operator.value.strip_prefix(GRANT);
            let is_grant = grant.is_some_and(|name| !name.is_empty());
            if is_grant {
                operators.push(operator.value);
            } else if is_login && !name.starts_with("tag:") && !domain.contains('*') {
                operators.push(text);
            } else {
                let message = format!("`{}` cannot be an operator", operator.value);
                let help = "an operator is a person: a login (alice@example.com, *@example.com) or grant:NAME, \
                            a profile name that the tailnet's policy file hands out; never a tag";
                self.findings
                    .error(Diagnostic::new(operator.at, message).help(help));
            }
        }
        operators
    }
}

impl Tailscale {
    /// Whether a person's node is an operator's, by its login or by what it was granted.
    /// A node that another tailnet shared in is meant by no wildcard.
    pub fn is_operator(&self, identity: &Identity) -> bool {
        let (is_guest, grants) = (identity.is_guest, &identity.grants);
        let login = identity.login.as_deref().map(str::to_ascii_lowercase);
        let Some(login) = login.filter(|login| !login.is_empty()) else {
            return false;
        };
        self.operators
            .iter()
            .any(|operator| match operator.strip_prefix(GRANT) {
                Some(grant) => grants.iter().any(|own| own == grant),
                None => !(is_guest && operator.starts_with('*')) && login_matches(operator, &login),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Policy, Source};
    use crate::identity::{Identity, Transport};

    fn load(operators: &str) -> Result<Policy, String> {
        let text = format!(
            "gateway {{\n  tailscale {{\n    socket = \"/s\"\n    operators = [{operators}]\n  }}\n}}\n"
        );
        let source = Source {
            path: "policy.hcl".into(),
            text,
        };
        Policy::load(vec![source], &|_| Err(std::io::ErrorKind::NotFound.into()))
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn an_operator_is_a_person() {
        let policy = load(r#""Ann@example.com", "*@ops.example.com", "grant:Admin""#).unwrap();
        let tailscale = policy.model().gateway.tailscale.as_ref().unwrap();
        let node = |login: Option<&str>, grants: &[&str]| Identity {
            login: login.map(str::to_owned),
            grants: grants.iter().map(|&grant| grant.to_owned()).collect(),
            ..Identity::new(Transport::Tailnet, [100, 64, 0, 1].into(), "n")
        };
        let is = |login: Option<&str>, grants: &[&str]| tailscale.is_operator(&node(login, grants));
        assert!(is(Some("ANN@example.com"), &[]) && is(Some("x@ops.example.com"), &[]));
        assert!(is(Some("x@elsewhere.com"), &["ci", "Admin"]));
        assert!(!is(Some("bob@example.com"), &["admin", "grant:Admin"]));
        assert!(!is(Some("x@evil.com@ops.example.com"), &[]) && !is(Some("@ops.example.com"), &[]));
        let is_guest_so = |login: &str| {
            let identity = Identity {
                is_guest: true,
                ..node(Some(login), &[])
            };
            tailscale.is_operator(&identity)
        };
        assert!(is_guest_so("ann@example.com") && !is_guest_so("x@ops.example.com"));
        // A grant without a person behind it is an agent's.
        assert!(!is(None, &["Admin"]) && !is(Some(""), &["Admin"]));
    }

    #[test]
    fn what_is_no_person_is_refused() {
        for wrong in [
            "tag:admin",
            "tag:x@example.com",
            "ann",
            "*",
            "*@",
            "@example.com",
            "a*@example.com",
            "*@*.com",
            "grant:",
            "",
        ] {
            let error = load(&format!("{wrong:?}")).err();
            let error = error.unwrap_or_else(|| panic!("{wrong} is taken"));
            assert!(error.contains("cannot be an operator"), "{wrong}: {error}");
        }
    }
}
