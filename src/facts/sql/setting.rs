//! SET, RESET and `set_config`: who the session is, how its text is read, where names are looked up. *Pure.*

use super::look::{constant, constant_text, reading_setting};
use super::path::PathChange;
use super::tree::Tree;
use super::walk::Walk;

/// Letters and digits of the longest value that one of [`READING_SETTINGS`](super::look) takes, with room:
/// `mule_internal` has 12. The server leaves everything else out of an encoding's name.
pub(super) const READING_VALUE_CHARS_MAX: usize = 15;

/// Settings that change who the session is.
const ROLE_SETTINGS: &[&str] = &["role", "session_authorization"];

const PATH_SETTING: &str = "search_path";

/// `VariableSetKind`: to a value. DEFAULT and RESET go back to what the start-up pinned.
const TO_A_VALUE: i64 = 1;

impl Walk {
    /// SET and RESET, alone or for a role, a database or the server. The server finds a setting
    /// whatever the case of its name.
    pub(super) fn set(&mut self, tree: &Tree) {
        let name = tree.get("name").text().to_ascii_lowercase();
        self.out.role_change |= ROLE_SETTINGS.contains(&name.as_str());
        if tree.get("kind").int() != TO_A_VALUE {
            return;
        }
        let args = tree.get("args").items();
        if let Some((_, values)) = reading_setting(&name) {
            let wanted = match args {
                [one] => constant_text(one),
                _ => None,
            };
            self.out.rereads |= wanted.is_none_or(|wanted| !values.contains(&wanted.as_str()));
        }
        if ROLE_SETTINGS.contains(&name.as_str()) {
            let roles: Option<Vec<String>> = args.iter().map(constant).collect();
            self.out
                .roles
                .join(roles.map_or(PathChange::Unseen, PathChange::To));
        }
        if name == PATH_SETTING {
            let schemas: Option<Vec<String>> = args.iter().map(constant).collect();
            self.out
                .path
                .join(schemas.map_or(PathChange::Unseen, PathChange::To));
        }
    }

    /// `set_config(name, value, …)`: as SET of that name, of any where it cannot be seen. A name
    /// that cannot be seen with a value that no setting of the reading takes is pg_dump's.
    pub(super) fn set_config(&mut self, args: &[Tree]) {
        let name = args.first().and_then(constant_text);
        let value = args.get(1).and_then(constant);
        let long = value.as_ref().is_some_and(|value| {
            let counted = value.bytes().filter(u8::is_ascii_alphanumeric).count();
            counted > READING_VALUE_CHARS_MAX
        });
        self.out.role_change |= name.as_deref().is_none_or(|name| ROLE_SETTINGS.contains(&name));
        self.out.rereads |= name
            .as_deref()
            .map_or(!long, |name| reading_setting(name).is_some());
        if name.as_deref().is_none_or(|name| ROLE_SETTINGS.contains(&name)) {
            let role = value.clone().filter(|_| name.is_some());
            self.out
                .roles
                .join(role.map_or(PathChange::Unseen, |role| PathChange::To(vec![role])));
        }
        if name.as_deref().is_none_or(|name| name == PATH_SETTING) {
            let path = value.as_deref().map_or(PathChange::Unseen, PathChange::to_list);
            self.out.path.join(path);
        }
    }
}
