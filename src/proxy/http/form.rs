//! The same request in the form of either HTTP version.

use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};

/// Origin form with a `Host` header (RFC 9112 §3.2.1). An absolute form becomes it, which an
/// origin server must take as the same (§3.2.2).
///
/// Cookies that HTTP/2 may send apart are joined again (RFC 9113 §8.2.3).
pub fn as_http1<B>(mut request: Request<B>) -> Request<B> {
    if request.version() == Version::HTTP_2 {
        join_cookies(request.headers_mut());
    }
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str());
        if let (false, Ok(host)) = (request.headers().contains_key(HOST), host) {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = Uri::from(path_of(&request));
    }
    request
}

/// Absolute form, from which `:scheme`, `:authority` and `:path` are made (RFC 9113 §8.3.1).
pub fn as_http2<B>(mut request: Request<B>, tls: bool) -> Request<B> {
    *request.version_mut() = Version::HTTP_2;
    let authority = match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => request
            .headers()
            .get(HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok()),
    };
    request.headers_mut().remove(HOST);
    let uri = Uri::builder()
        .scheme(if tls { Scheme::HTTPS } else { Scheme::HTTP })
        .path_and_query(path_of(&request));
    let uri = match authority {
        Some(authority) => uri.authority(authority).build(),
        None => return request,
    };
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    request
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let sensitive = first.is_sensitive();
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(sensitive);
        headers.insert(COOKIE, joined);
    }
}

fn path_of<B>(request: &Request<B>) -> PathAndQuery {
    let path = request.uri().path_and_query();
    path.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_keep_target_and_host() {
        let cases = [
            (
                "/a//b?c=%2F",
                Some("api.test:8443"),
                "/a//b?c=%2F",
                "https://api.test:8443/a//b?c=%2F",
            ),
            (
                "http://api.test/x?",
                Some("api.test"),
                "/x?",
                "https://api.test/x?",
            ),
            ("https://api.test", None, "/", "https://api.test/"),
        ];
        for (uri, host, origin, absolute) in cases {
            let mut request = Request::new(());
            *request.uri_mut() = uri.parse().unwrap();
            if let Some(host) = host {
                request.headers_mut().insert(HOST, host.parse().unwrap());
            }
            let one = as_http1(request);
            assert_eq!(one.uri().to_string(), origin);
            assert!(one.headers().contains_key(HOST));
            let two = as_http2(one, true);
            assert_eq!(two.uri().to_string(), absolute);
            assert!(!two.headers().contains_key(HOST));
            assert_eq!(as_http1(two).uri().to_string(), origin);
        }
    }

    #[test]
    fn crumbs_of_a_cookie_are_joined() {
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().append(COOKIE, "a=b".parse().unwrap());
        request.headers_mut().append(COOKIE, "c=d".parse().unwrap());
        let one = as_http1(request);
        let cookies: Vec<_> = one.headers().get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=b; c=d"]);
    }
}
