//! The `search_path` of a session: where names without a schema are looked up. *Pure.*
//!
//! What the server's default is (of the role, the database, the file) cannot be seen from the wire. What a
//! session sets it to can, and from then on every name is listed under each of those schemas too.
//! A path that was once set is never taken away again, since a transaction may bring it back; so
//! the lists hold all that a name could mean.

/// Schemas that a session may name in all its paths; then they count as unseen.
pub const SCHEMAS_MAX: usize = 64;

/// What a statement does to the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathChange {
    #[default]
    None,
    /// To these schemas.
    To(Vec<String>),
    /// To what cannot be seen.
    Unseen,
}

impl PathChange {
    pub(super) fn join(&mut self, other: PathChange) {
        match (&mut *self, other) {
            (_, PathChange::None) => {}
            (PathChange::To(own), PathChange::To(more)) => own.extend(more),
            (PathChange::Unseen, _) => {}
            (own, other) => *own = other,
        }
    }

    /// By a list as `set_config` and the start-up packet take it.
    pub fn to_list(text: &str) -> PathChange {
        identifiers(text).map_or(PathChange::Unseen, PathChange::To)
    }
}

/// The schemas that a session has put into its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    schemas: Option<Vec<String>>,
    unseen: bool,
}

impl SearchPath {
    /// Takes a change in. `user` is what `"$user"` stands for.
    pub fn apply(&mut self, change: &PathChange, user: &str) {
        let named = match change {
            PathChange::None => return,
            PathChange::Unseen => {
                self.unseen = true;
                return;
            }
            PathChange::To(named) => named,
        };
        let schemas = self.schemas.get_or_insert_default();
        for name in named {
            let name = if name == "$user" { user } else { name };
            if schemas.iter().any(|known| known == name) {
                continue;
            }
            if schemas.len() == SCHEMAS_MAX {
                self.unseen = true;
                return;
            }
            schemas.push(name.to_owned());
        }
    }

    /// The schemas, if the session has set a path and it could be seen.
    pub fn known(&self) -> Option<&[String]> {
        self.schemas.as_deref().filter(|_| !self.unseen)
    }

    /// Whether the session may have a path that was not seen being set.
    pub fn is_unseen(&self) -> bool {
        self.unseen
    }

    /// Whether the server's own functions may stand behind others of the same name.
    pub(super) fn shadows_builtin(&self) -> bool {
        let at = |schemas: &Vec<String>| schemas.iter().rposition(|name| name == "pg_catalog");
        self.unseen || self.schemas.as_ref().and_then(at).is_some_and(|at| at > 0)
    }
}

/// The identifiers of a list, as `SplitIdentifierString` reads it; `None` where the server would refuse it.
fn identifiers(text: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = text.trim_matches(is_space);
    if rest.is_empty() {
        return Some(names);
    }
    loop {
        let name = if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut inner = quoted;
            loop {
                let (front, behind) = inner.split_once('"')?;
                name.push_str(front);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        name.push('"');
                        inner = more;
                    }
                    None => {
                        rest = behind;
                        break name;
                    }
                }
            }
        } else {
            let end = rest
                .find(|char: char| char == ',' || is_space(char))
                .unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end)?;
            rest = behind;
            if name.is_empty() {
                return None;
            }
            name.to_ascii_lowercase()
        };
        names.push(name);
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(is_space);
    }
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_as_the_server_cuts_them() {
        let check = |text: &str, want: Option<&[&str]>| {
            let want = want.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            assert_eq!(identifiers(text), want, "{text}");
        };
        check("", Some(&[]));
        check("Public", Some(&["public"]));
        check(" a , \"B c\",\"d\"\"e\" ", Some(&["a", "B c", "d\"e"]));
        check("\"$user\", public", Some(&["$user", "public"]));
        check("a b", None);
        check("a,", None);
        check("\"a", None);
        check(",a", None);
    }

    #[test]
    fn what_was_set_once_stays_and_too_many_are_unseen() {
        let mut path = SearchPath::default();
        assert_eq!(path.known(), None);
        path.apply(&PathChange::to_list("\"$user\", app"), "ann");
        path.apply(&PathChange::to_list("other, app"), "ann");
        assert_eq!(path.known().unwrap(), ["ann", "app", "other"]);
        assert!(!path.shadows_builtin());
        let mut shadowed = path.clone();
        shadowed.apply(&PathChange::to_list("pg_catalog"), "ann");
        assert!(shadowed.shadows_builtin());
        for n in 0..SCHEMAS_MAX - 3 {
            path.apply(&PathChange::To(vec![format!("s{n}")]), "ann");
        }
        assert_eq!(path.known().unwrap().len(), SCHEMAS_MAX);
        path.apply(&PathChange::To(vec!["one more".to_owned()]), "ann");
        assert!(path.known().is_none() && path.is_unseen());
        let mut path = SearchPath::default();
        path.apply(&PathChange::to_list("a,"), "ann");
        assert!(path.is_unseen() && path.shadows_builtin());
    }
}
