//! The object's name out of a field selector. *Pure.*
//!
//! Terms are split at commas, each at its first `!=`, `==` or `=`; a backslash escapes itself, a
//! comma and an equals sign (`k8s.io/apimachinery`'s `fields`).

/// The name that `metadata.name` must be equal to; empty where the selector asks for none;
/// `None` where the selector does not parse.
pub fn name(selector: &str) -> Option<String> {
    let mut found: Option<String> = None;
    for term in terms(selector) {
        if term.is_empty() {
            continue;
        }
        let (field, equal, value) = operator(term)?;
        let value = unescape(value)?;
        if field == "metadata.name" && equal && found.is_none() {
            found = Some(value);
        }
    }
    let name = found.unwrap_or_default();
    let is_segment = name != "." && name != ".." && !name.contains(['/', '%']);
    Some(if is_segment { name } else { String::new() })
}

/// Whether a label selector is of the plain forms that certainly parse: `a=b`, `a==b`, `a!=b`, `a`.
pub(super) fn is_plain(selector: &str) -> bool {
    let word = |text: &str| {
        text.len() <= 63
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
            && text.as_bytes().first().is_none_or(u8::is_ascii_alphanumeric)
            && text.as_bytes().last().is_none_or(u8::is_ascii_alphanumeric)
    };
    let key = |text: &str| !text.is_empty() && word(text) && !matches!(text, "in" | "notin");
    selector.is_empty()
        || selector.split(',').all(|term| match operator(term) {
            Some((name, _, value)) => key(name) && word(value) && !matches!(value, "in" | "notin"),
            None => key(term),
        })
}

/// The pieces between commas that no backslash escapes.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    selector.split(move |char| {
        let separates = char == ',' && !escaped;
        escaped = char == '\\' && !escaped;
        separates
    })
}

/// Field, whether it is for equality, and value.
fn operator(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        let (field, rest) = term.split_at(index);
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((field, false, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((field, true, value));
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                _ => return None,
            },
            ',' | '=' => return None,
            char => out.push(char),
        }
    }
    Some(out)
}
