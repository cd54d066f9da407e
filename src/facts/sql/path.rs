//! The `search_path` of a session: where names without a schema are looked up. *Pure.*
//!
//! What it is at first (by the role, the database, the file) the gateway asks the server where rules tell
//! names by their schemas. What a session sets it to is seen, and from then on every name is
//! listed under each of those schemas too. A path that was once in force is never taken away again, since
//! RESET, DISCARD ALL or the end of a transaction may bring it back; so the lists hold all that a
//! name could mean. `"$user"` is each role that the session has been.

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

/// The schemas that a session's path has held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPath {
    schemas: Option<Vec<String>>,
    unseen: bool,
    /// Whether `"$user"` is among them.
    follows_role: bool,
    /// Roles that the session has taken; `None` where one could not be seen.
    roles: Roles,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Roles {
    taken: Vec<String>,
    unseen: bool,
}

/// What SET ROLE takes for the role that logged in.
const NO_ROLE: &str = "none";

impl SearchPath {
    /// Takes a change in. `user` is what `"$user"` stands for, beside the roles that were taken; it may
    /// be empty where those hold it.
    pub fn apply(&mut self, change: &PathChange, user: &str) {
        let named = match change {
            PathChange::None => return,
            PathChange::Unseen => {
                self.unseen = true;
                return;
            }
            PathChange::To(named) => named,
        };
        self.schemas.get_or_insert_default();
        for name in named {
            if name == "$user" {
                self.follows_role = true;
                self.unseen |= self.roles.unseen;
                self.push(user);
                for role in self.roles.taken.clone() {
                    self.push(&role);
                }
            } else {
                self.push(name);
            }
        }
    }

    /// Takes in what a server says of a session's first path, whose role was taken in before. A schema of the
    /// role's own name that is not there (`has_own`) is not listed: it would be there under every
    /// path that nobody has changed, and names can mean nothing in it.
    pub fn begin(&mut self, text: &str, has_own: bool) {
        match PathChange::to_list(text) {
            PathChange::To(mut named) if !has_own && named.iter().any(|name| name == "$user") => {
                named.retain(|name| name != "$user");
                self.apply(&PathChange::To(named), "");
                self.follows_role = true;
                self.unseen |= self.roles.unseen;
            }
            change => self.apply(&change, ""),
        }
    }

    /// Takes in which roles the session becomes.
    pub fn apply_roles(&mut self, change: &PathChange) {
        match change {
            PathChange::None => {}
            PathChange::Unseen => {
                self.roles.unseen = true;
                self.unseen |= self.follows_role;
            }
            PathChange::To(roles) => {
                for role in roles.iter().filter(|role| *role != NO_ROLE) {
                    if self.follows_role {
                        self.push(role);
                    }
                    match self.roles.taken.len() {
                        _ if self.roles.taken.contains(role) => {}
                        SCHEMAS_MAX => self.roles.unseen = true,
                        _ => self.roles.taken.push(role.clone()),
                    }
                }
            }
        }
    }

    fn push(&mut self, name: &str) {
        let schemas = self.schemas.get_or_insert_default();
        if name.is_empty() || schemas.iter().any(|known| known == name) {
            return;
        }
        match schemas.len() {
            SCHEMAS_MAX => self.unseen = true,
            _ => schemas.push(name.to_owned()),
        }
    }

    /// The schemas, if a path is known and every change of it could be seen.
    pub fn known(&self) -> Option<&[String]> {
        self.schemas.as_deref().filter(|_| !self.unseen)
    }

    /// Whether nothing is known of a path: names mean what is written.
    pub(super) fn is_plain(&self) -> bool {
        self.schemas.is_none() && !self.unseen
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

/// Names that were written without a schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bare {
    pub reads: Vec<String>,
    pub writes: Vec<String>,
    pub functions: Vec<String>,
    /// Operators, or types of casts.
    pub operators: bool,
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
    fn the_user_in_a_path_is_each_role_that_was_taken() {
        let mut path = SearchPath::default();
        path.apply_roles(&PathChange::To(vec!["early".to_owned()]));
        path.apply(&PathChange::to_list("\"$user\", public"), "ann");
        path.apply_roles(&PathChange::To(vec!["none".to_owned()]));
        path.apply_roles(&PathChange::To(vec!["late".to_owned()]));
        assert_eq!(path.known().unwrap(), ["ann", "early", "public", "late"]);
        let mut unseen = path.clone();
        unseen.apply_roles(&PathChange::Unseen);
        assert!(unseen.is_unseen());
        // A schema that is not there is not listed until somebody asks for it.
        let mut first = SearchPath::default();
        first.apply_roles(&PathChange::To(vec!["ann".to_owned()]));
        first.begin("\"$user\", public", false);
        assert_eq!(first.known().unwrap(), ["public"]);
        first.apply_roles(&PathChange::To(vec!["bob".to_owned()]));
        assert_eq!(first.known().unwrap(), ["public", "bob"]);
        first.begin("\"$user\"", true);
        assert_eq!(first.known().unwrap(), ["public", "bob", "ann"]);
        first.begin("a,", true);
        assert!(first.is_unseen());
        // A path without it is the same for every role.
        let mut fixed = SearchPath::default();
        fixed.apply(&PathChange::to_list("public"), "ann");
        fixed.apply_roles(&PathChange::Unseen);
        assert_eq!(fixed.known().unwrap(), ["public"]);
        fixed.apply(&PathChange::to_list("\"$user\""), "ann");
        assert!(fixed.is_unseen());
        let many = (0..=SCHEMAS_MAX).map(|n| format!("r{n}")).collect();
        path.apply_roles(&PathChange::To(many));
        assert!(path.is_unseen());
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
