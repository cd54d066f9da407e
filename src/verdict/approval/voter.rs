//! Who decides, as the transport proved it, and whether they may. *Pure.*

use crate::policy::{APPROVER_GRANT, login_matches};

/// Stands before a login that could be an account's name.
const LOGIN: &str = "login:";

/// A person who decides. What a body says of them is never in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voter {
    /// By the account of their process on the gateway's machine, or by the operator's token.
    Account(String),
    /// By the tailnet: the login of an untagged node, and what the tailnet's policy file grants it by
    /// [`APPROVER`](crate::ingress::tailnet::APPROVER).
    Login {
        login: String,
        grants: Vec<String>,
        /// Of a node that another tailnet shared in: no wildcard means it.
        is_guest: bool,
    },
    /// As a channel says: whoever has its secret speaks for those that it lists.
    Through {
        /// `webhook.ops`.
        channel: String,
        person: Box<Voter>,
        /// The channels of that secret, itself included, where nothing else tells its people apart: together
        /// they count once in a quorum, and once in a chain.
        voices: Vec<String>,
    },
}

impl Voter {
    /// The name that is recorded. A login is never an account's name: control servers let people
    /// choose it.
    pub fn name(&self) -> String {
        match self {
            Voter::Account(name) => name.clone(),
            Voter::Login { login, .. } => person_of(login),
            Voter::Through { person, .. } => person.name(),
        }
    }

    /// The channel that says who they are.
    pub fn through(&self) -> Option<&str> {
        match self {
            Voter::Through { channel, .. } => Some(channel),
            _ => None,
        }
    }

    /// By what a person counts once in a quorum; `login` is the one that an account names as its own.
    /// It adds to nobody's rights.
    pub fn counts_as(&self, login: Option<String>) -> String {
        match (self, login) {
            (Voter::Through { person, .. }, login) => person.counts_as(login),
            (Voter::Account(_), Some(login)) => person_of(&login),
            // An account that is called like a login is the same person's.
            (Voter::Account(name), None) if name.contains('@') => name.to_ascii_lowercase(),
            _ => self.name(),
        }
    }

    /// Whether they may decide where `eligible` says who does: names of accounts, logins,
    /// `*@domain` and `grant:NAME`; nobody named is everybody who may use the API.
    pub fn may_decide(&self, eligible: &[String]) -> bool {
        eligible.is_empty() || eligible.iter().any(|entry| self.is_meant(entry))
    }

    fn is_meant(&self, entry: &str) -> bool {
        match (entry.strip_prefix(APPROVER_GRANT), self) {
            (_, Voter::Through { person, .. }) => person.is_meant(entry),
            (Some(grant), Voter::Login { grants, .. }) => grants.iter().any(|own| own == grant),
            (Some(_), Voter::Account(_)) => false,
            (None, Voter::Account(name)) => entry == name,
            (None, Voter::Login { is_guest, .. }) => {
                !(*is_guest && entry.starts_with('*'))
                    && login_matches(&entry.to_ascii_lowercase(), &self.name())
            }
        }
    }
}

/// By what the person with this login counts: [`Voter::counts_as`].
pub fn person_of(login: &str) -> String {
    let login = login.to_ascii_lowercase();
    match login.contains('@') {
        true => login,
        false => format!("{LOGIN}{login}"),
    }
}

/// Whether what a person counts as says who they are on the tailnet. An account that names no login may
/// be anybody's.
pub(super) fn is_person(counts_as: &str) -> bool {
    counts_as.contains('@') || counts_as.starts_with(LOGIN)
}

impl From<&str> for Voter {
    /// An account.
    fn from(name: &str) -> Self {
        Voter::Account(name.to_owned())
    }
}

impl From<String> for Voter {
    /// An account.
    fn from(name: String) -> Self {
        Voter::Account(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(login: &str, grants: &[&str]) -> Voter {
        Voter::Login {
            login: login.to_owned(),
            grants: grants.iter().map(|&grant| grant.to_owned()).collect(),
            is_guest: false,
        }
    }

    #[track_caller]
    fn check(voter: &Voter, eligible: &[&str], want: bool) {
        let eligible: Vec<String> = eligible.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(voter.may_decide(&eligible), want, "{voter:?} for {eligible:?}");
    }

    #[test]
    fn an_account_decides_by_its_name_alone() {
        let root = Voter::from("root");
        check(&root, &[], true);
        check(&root, &["alice@example.com", "root"], true);
        for no in [
            &["Root"][..],
            &["*@example.com"],
            &["grant:root"],
            &["login:root"],
        ] {
            check(&root, no, false);
        }
    }

    #[test]
    fn a_person_of_the_tailnet_decides_by_login_or_grant() {
        let alice = login("Alice@Example.com", &["oncall"]);
        for yes in [
            &[][..],
            &["alice@example.com"],
            &["Alice@example.com"],
            &["*@example.com"],
            &["root", "grant:oncall"],
        ] {
            check(&alice, yes, true);
        }
        for no in [
            &["alice"][..],
            &["grant:lead"],
            &["grant:"],
            &["oncall"],
            &["*@ample.com"],
            &["alice@example.com.evil"],
            &["*"],
        ] {
            check(&alice, no, false);
        }
        check(&login("a@evil@example.com", &[]), &["*@example.com"], false);
        let guest = Voter::Login {
            login: "alice@example.com".to_owned(),
            grants: vec!["oncall".to_owned()],
            is_guest: true,
        };
        check(&guest, &["*@example.com"], false);
        check(&guest, &["alice@example.com"], true);
        check(&guest, &["grant:oncall"], true);
    }

    #[test]
    fn a_login_is_no_account_whatever_it_is_called() {
        for (name, want) in [
            ("root", "login:root"),
            ("operator", "login:operator"),
            ("A@b.c", "a@b.c"),
        ] {
            assert_eq!(login(name, &[]).name(), want);
        }
        check(&login("root", &[]), &["root"], false);
        check(&login("root", &[]), &["login:root"], true);
        check(&login("grant:oncall", &[]), &["grant:oncall"], false);
    }

    #[test]
    fn a_person_counts_once_by_whatever_they_came() {
        let counts = |voter: &Voter, login: Option<&str>| voter.counts_as(login.map(str::to_owned));
        assert_eq!(counts(&login("Ann@Example.com", &[]), None), "ann@example.com");
        assert_eq!(counts(&"ann".into(), Some("Ann@example.com")), "ann@example.com");
        assert_eq!(counts(&"Ann@Example.com".into(), None), "ann@example.com");
        assert_eq!(counts(&"ann".into(), None), "ann");
        assert_eq!(counts(&login("ann", &[]), None), "login:ann");
        assert_eq!(counts(&"root".into(), Some("Ann")), "login:ann");
        assert!(is_person("login:ann") && is_person("ann@example.com") && !is_person("ann"));
    }
}
