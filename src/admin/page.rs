//! The admin page's files: part of the binary, nothing of them is fetched from anywhere.
//!
//! Plain modules that the browser takes as they are written; there is no build step. Preact and htm
//! are one vendored file, beside their licences.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

use crate::facts::escape;

/// What the page may load and do: its own files, its own listener, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    (
        "/page/style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    ("/page/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/page/app.js", SCRIPT, include_str!("page/app.js")),
    ("/page/api.js", SCRIPT, include_str!("page/api.js")),
    ("/page/show.js", SCRIPT, include_str!("page/show.js")),
    ("/page/sign-in.js", SCRIPT, include_str!("page/sign-in.js")),
    ("/page/approvals.js", SCRIPT, include_str!("page/approvals.js")),
    ("/page/traffic.js", SCRIPT, include_str!("page/traffic.js")),
    ("/page/list.js", SCRIPT, include_str!("page/list.js")),
    ("/page/audit.js", SCRIPT, include_str!("page/audit.js")),
    ("/page/agents.js", SCRIPT, include_str!("page/agents.js")),
    ("/page/policy.js", SCRIPT, include_str!("page/policy.js")),
    ("/page/draft.js", SCRIPT, include_str!("page/draft.js")),
    ("/page/why.js", SCRIPT, include_str!("page/why.js")),
    (
        "/page/credentials.js",
        SCRIPT,
        include_str!("page/credentials.js"),
    ),
    ("/page/gateway.js", SCRIPT, include_str!("page/gateway.js")),
    (
        "/page/vendor/preact-htm.js",
        SCRIPT,
        include_str!("page/vendor/preact-htm.js"),
    ),
];

/// The files' routes.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new();
    for &(path, kind, content) in FILES {
        let digest = Sha256::digest(content.as_bytes());
        let tag = format!("\"{}\"", escape::hex(&digest[..12]));
        let give = move |headers: HeaderMap| async move {
            let is_known = headers
                .get(header::IF_NONE_MATCH)
                .is_some_and(|known| known.as_bytes() == tag.as_bytes());
            let mut answer = match is_known {
                true => StatusCode::NOT_MODIFIED.into_response(),
                false => content.into_response(),
            };
            answer
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Ok(tag) = HeaderValue::from_str(&tag) {
                answer.headers_mut().insert(header::ETAG, tag);
            }
            answer
        };
        router = router.route(path, get(give));
    }
    router
}

/// What every answer says to a browser, the API's own as well.
pub(super) async fn guarded(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A file's tag is asked for anew each time; nothing else is kept.
    let kept = if headers.contains_key(header::ETAG) {
        "no-cache"
    } else {
        "no-store"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    answer
}

/// [`guarded`] as a layer.
pub(super) fn guard<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(middleware::from_fn(guarded))
}
