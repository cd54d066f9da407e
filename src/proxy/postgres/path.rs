//! Whether a policy that came into force asks for more than is known of a session's `search_path`.

use crate::verdict::{Cause, Refusal};

/// What an agent reads whose connection a new policy ends.
pub(super) const CHANGED: &str = "the policy has changed; connect again";

/// What is known of the session's first path.
pub(super) struct PathNeed {
    /// The server was asked.
    asked: bool,
    /// The policy that was looked at last, by its number, and whether it tells names by their schemas.
    seen: Option<(u64, bool)>,
}

impl PathNeed {
    pub(super) fn new(asked: bool) -> Self {
        PathNeed { asked, seen: None }
    }

    /// The refusal where the policy of now tells names by their schemas and the server was not asked: what
    /// has been judged without it may have been another table.
    pub(super) fn refused(&mut self, policy: u64, names_schemas: impl FnOnce() -> bool) -> Option<Refusal> {
        if self.asked {
            return None;
        }
        let lacks = match self.seen {
            Some((seen, lacks)) if seen == policy => lacks,
            _ => names_schemas(),
        };
        self.seen = Some((policy, lacks));
        lacks.then(|| Refusal::new(Cause::NoRule, CHANGED))
    }
}
