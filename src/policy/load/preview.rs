//! The `preview…` fields of an endpoint.

use std::time::Duration;

use super::super::diagnostic::Diagnostic;
use super::super::hcl::Fields;
use super::super::{Previews, Protocol};
use super::Loader;

/// What a waiter puts up with, where nothing is said.
const LOCK_MAX: Duration = Duration::from_secs(2);
/// How long a change is held open, where nothing is said.
const HOLD_MAX: Duration = Duration::from_secs(300);
/// Rows of a sample, where nothing is said, and at most.
const ROWS: usize = 5;
const ROWS_MAX: i64 = 50;

impl<'a> Loader<'a> {
    pub(super) fn previews(&self, fields: &Fields<'a>, protocol: Protocol) -> Option<Previews> {
        let wanted = fields.flag("preview").unwrap_or(false);
        let previews = Previews {
            lock_max: fields.duration("preview_lock_max").unwrap_or(LOCK_MAX),
            hold_max: fields.duration("preview_hold_max").unwrap_or(HOLD_MAX),
            rows: fields
                .size("preview_rows", 0..=ROWS_MAX)
                .and_then(|rows| usize::try_from(rows).ok())
                .unwrap_or(ROWS),
            masked: fields
                .texts("preview_masked")
                .into_iter()
                .map(|text| text.value)
                .collect(),
        };
        let names = [
            "preview",
            "preview_lock_max",
            "preview_hold_max",
            "preview_rows",
            "preview_masked",
        ];
        let (known, help): (&[&str], _) = match protocol {
            Protocol::Postgres => (&names, "write preview = true"),
            Protocol::Kubernetes if wanted => (
                &["preview", "preview_masked"],
                "an API server's dry run holds nothing open, and has no rows",
            ),
            Protocol::Kubernetes => (&["preview", "preview_masked"], "write preview = true"),
            _ => (&[], "nothing of this endpoint is tried before it is approved"),
        };
        for name in names {
            if fields.has(name) && !(known.contains(&name) && wanted) && (name != "preview" || wanted) {
                let message = format!("`{name}` of {} has no effect here", fields.title);
                self.findings
                    .note(Diagnostic::new(fields.at_of(name), message).help(help));
            }
        }
        (wanted && matches!(protocol, Protocol::Postgres | Protocol::Kubernetes)).then_some(previews)
    }
}

#[cfg(test)]
mod tests {
    use super::ROWS_MAX;
    use crate::policy::{Policy, Source};

    #[test]
    fn a_sample_has_so_many_rows_and_no_more() {
        let load = |rows: i64| {
            let text = format!(
                "endpoint \"postgres\" \"a\" {{\n host = \"a.test:5432\"\n preview = true\n preview_rows = {rows}\n}}\n"
            );
            let path = "policy.hcl".into();
            Policy::load(vec![Source { path, text }], &|path| std::fs::read_to_string(path))
        };
        assert!(load(ROWS_MAX).is_ok());
        let errors = load(ROWS_MAX + 1).err().unwrap().to_string();
        assert!(errors.contains("preview_rows"), "{errors}");
    }
}
