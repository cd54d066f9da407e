//! From method and path to verb, group, resource, namespace and name. *Pure.*

/// What the API server's authorizer is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    pub path: String,
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
}

/// Subresources of a namespace; anything else behind its name is a resource inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Resolves a request. `path` is decoded; `watch` and `field_selector` are the query's first
/// values of those names. `None` for `/api/v1/watch` without an object, which the server refuses.
pub fn resolve(
    method: &str,
    path: &str,
    watch: Option<&str>,
    field_selector: Option<&str>,
) -> Option<RequestInfo> {
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: method.to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let trimmed = path.trim_matches('/');
    let all: Vec<&str> = if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() };
    // `/api/{version}/{resource}` and `/apis/{group}/{version}/{resource}`; what is shorter is discovery.
    let parts = match all.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            info.version = (*version).to_owned();
            rest
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            info.group = (*group).to_owned();
            info.version = (*version).to_owned();
            rest
        }
        _ => return Some(info),
    };
    info.is_resource = true;
    let parts = match parts {
        [special @ ("proxy" | "watch"), rest @ ..] => {
            if rest.is_empty() {
                return None;
            }
            info.verb = (*special).to_owned();
            rest
        }
        _ => {
            info.verb = verb_of(method).to_owned();
            parts
        }
    };
    let parts = match parts {
        ["namespaces", namespace, rest @ ..] => {
            info.namespace = (*namespace).to_owned();
            match rest.first() {
                Some(next) if !NAMESPACE_SUBRESOURCES.contains(next) => rest,
                _ => parts,
            }
        }
        _ => parts,
    };
    if let Some(subresource) = parts.get(2).filter(|_| info.verb != "proxy") {
        info.subresource = (*subresource).to_owned();
    }
    info.name = parts.get(1).copied().unwrap_or_default().to_owned();
    info.resource = parts.first().copied().unwrap_or_default().to_owned();
    if info.name.is_empty() {
        of_collection(&mut info, watch, field_selector);
    }
    Some(info)
}

fn verb_of(method: &str) -> &'static str {
    match method {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// A request without a name is for the collection: list, watch or deletecollection.
fn of_collection(info: &mut RequestInfo, watch: Option<&str>, field_selector: Option<&str>) {
    match info.verb.as_str() {
        "get" => {
            // An empty value counts as true, as the server's conversion of booleans has it.
            let watches = watch.is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"));
            info.verb = if watches { "watch" } else { "list" }.to_owned();
            if let Some(name) = field_selector.and_then(name_in) {
                info.name = name;
            }
        }
        "delete" => info.verb = "deletecollection".to_owned(),
        _ => {}
    }
}

/// The name that a field selector requires exactly, where it is a valid one. A selector that does
/// not parse names nothing.
fn name_in(selector: &str) -> Option<String> {
    let mut found = None;
    for term in split_terms(selector).into_iter().filter(|term| !term.is_empty()) {
        let (key, value, exact) = match (term.split_once("!="), term.split_once("=="), term.split_once('=')) {
            (Some((key, value)), _, _) if !key.contains('=') => (key, value, false),
            (_, Some((key, value)), _) if !key.contains('=') => (key, value, true),
            (_, _, Some((key, value))) => (key, value, true),
            _ => return None,
        };
        let value = unescape(value)?;
        if exact && key == "metadata.name" && found.is_none() {
            found = Some(value);
        }
    }
    found.filter(|name| !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']))
}

fn split_terms(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in selector.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

/// `\\`, `\,` and `\=` are the only escapes; a bare `,` or `=` in a value is an error.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            _ => out.push(char),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb group/version namespace resource[/sub] name`, `-` for what is empty.
    #[track_caller]
    fn check(request: &str, want: &str) {
        let (method, uri) = request.split_once(' ').unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let value = |key: &str| {
            query.split('&').find_map(|pair| match pair.split_once('=') {
                Some((name, value)) => (name == key).then_some(value),
                None => (pair == key).then_some(""),
            })
        };
        let info = resolve(method, path, value("watch"), value("fieldSelector")).unwrap();
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let got = if info.is_resource {
            let resource = match info.subresource.as_str() {
                "" => info.resource.clone(),
                sub => format!("{}/{sub}", info.resource),
            };
            format!(
                "{} {}/{} {} {} {}",
                or_dash(&info.verb),
                or_dash(&info.group),
                info.version,
                or_dash(&info.namespace),
                or_dash(&resource),
                or_dash(&info.name)
            )
        } else {
            format!("{} nonresource", info.verb)
        };
        assert_eq!(got, want, "{request}");
    }

    #[test]
    fn requests_resolve_as_the_server_has_it() {
        for (request, want) in [
            ("GET /api/v1/namespaces", "list -/v1 - namespaces -"),
            ("GET /api/v1/namespaces/other", "get -/v1 other namespaces other"),
            ("DELETE /api/v1/namespaces/prod", "delete -/v1 prod namespaces prod"),
            ("PUT /api/v1/namespaces/other/finalize", "update -/v1 other namespaces/finalize other"),
            ("PUT /api/v1/namespaces/other/status", "update -/v1 other namespaces/status other"),
            ("GET /api/v1/namespaces/other/pods", "list -/v1 other pods -"),
            ("GET /api/v1/namespaces/other/pods/foo", "get -/v1 other pods foo"),
            ("HEAD /api/v1/namespaces/other/pods/foo", "get -/v1 other pods foo"),
            ("GET /api/v1/pods", "list -/v1 - pods -"),
            ("POST /api/v1/namespaces/other/pods", "create -/v1 other pods -"),
            ("PATCH /api/v1/namespaces/other/pods/foo", "patch -/v1 other pods foo"),
            ("DELETE /api/v1/namespaces/other/pods", "deletecollection -/v1 other pods -"),
            ("DELETE /api/v1/namespaces/other/pods/foo", "delete -/v1 other pods foo"),
            ("GET /api/v1/namespaces/other/pods/foo/log", "get -/v1 other pods/log foo"),
            ("GET /api/v1/namespaces/other/pods/foo/exec?command=sh", "get -/v1 other pods/exec foo"),
            ("POST /api/v1/namespaces/other/pods/foo/exec", "create -/v1 other pods/exec foo"),
            ("POST /api/v1/namespaces/other/pods/foo/portforward", "create -/v1 other pods/portforward foo"),
            ("GET /api/v1/namespaces/x/services/s/proxy/a/b", "get -/v1 x services/proxy s"),
            ("GET /api/v1/proxy/namespaces/x/pods/foo/a", "proxy -/v1 x pods foo"),
            ("GET /api/v1/watch/pods", "watch -/v1 - pods -"),
            ("GET /api/v1/watch/namespaces/other/pods/foo", "watch -/v1 other pods foo"),
            ("GET /api/v1/namespaces/other/pods?watch=true", "watch -/v1 other pods -"),
            ("GET /api/v1/namespaces/other/pods?watch", "watch -/v1 other pods -"),
            ("GET /api/v1/namespaces/other/pods?watch=1", "watch -/v1 other pods -"),
            ("GET /api/v1/namespaces/other/pods?watch=False", "list -/v1 other pods -"),
            ("GET /api/v1/namespaces/other/pods?watch=0", "list -/v1 other pods -"),
            ("GET /api/v1/pods?fieldSelector=metadata.name=foo", "list -/v1 - pods foo"),
            ("GET /api/v1/pods?watch=1&fieldSelector=metadata.name==foo", "watch -/v1 - pods foo"),
            ("GET /api/v1/pods?fieldSelector=metadata.name!=foo", "list -/v1 - pods -"),
            ("GET /api/v1/pods?fieldSelector=spec.nodeName=n,metadata.name=foo", "list -/v1 - pods foo"),
            ("GET /api/v1/pods?fieldSelector=metadata.name=a/b", "list -/v1 - pods -"),
            ("GET /apis/apps/v1/namespaces/x/deployments", "list apps/v1 x deployments -"),
            ("PUT /apis/apps/v1/namespaces/x/deployments/d/scale", "update apps/v1 x deployments/scale d"),
            ("GET /apis/batch/v1/watch/namespaces/x/jobs", "watch batch/v1 x jobs -"),
            ("GET /apis/rbac.authorization.k8s.io/v1/clusterroles/r", "get rbac.authorization.k8s.io/v1 - clusterroles r"),
            ("OPTIONS /api/v1/pods", "- -/v1 - pods -"),
            ("GET /", "get nonresource"),
            ("GET /api", "get nonresource"),
            ("GET /api/v1", "get nonresource"),
            ("GET /apis/apps/v1", "get nonresource"),
            ("GET /apis/apps", "get nonresource"),
            ("GET /healthz", "get nonresource"),
            ("POST /version", "post nonresource"),
            ("GET /openapi/v3/apis/apps/v1", "get nonresource"),
            ("GET /api/v1/namespaces/other/pods/", "list -/v1 other pods -"),
        ] {
            check(request, want);
        }
    }

    #[test]
    fn a_special_verb_without_an_object_is_refused() {
        assert_eq!(resolve("GET", "/api/v1/watch", None, None), None);
        assert_eq!(resolve("GET", "/apis/apps/v1/proxy", None, None), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(path in "(/[a-z.%]{0,12}){0,8}", selector in ".{0,40}") {
            let _ = resolve("GET", &path, Some(""), Some(&selector));
        }
    }
}
