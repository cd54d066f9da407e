//! Headers by which a proxy in front tells a server who asks, and by what name. *Pure.*
//!
//! A server believes them of its proxy, and that is the gateway here: it would believe them of the agent, too. The
//! address, the name, the certificate or the user of somebody else opens doors that no rule sees. So none of them
//! goes up, whatever it says: what a proxy at the edge does with them (nginx's `proxy_set_header`, Envoy's
//! `use_remote_address`).

use http::header::{HeaderMap, HeaderName};

use super::remove_if;

/// Headers that such a proxy sets: of RFC 7239 and RFC 9440, and of those that are in use (nginx, Apache, Envoy,
/// HAProxy, Traefik, Cloudflare, Fastly, Akamai, Azure, Google Cloud, AWS).
const NAMES: &[&str] = &[
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "forwarded-for",
    "proxy-client-ip",
    "remote-addr",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-arr-ssl",
    "x-authenticated-user",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-uri",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-url-scheme",
    "x-webauth-user",
];

/// What the names of whole families of them begin with.
const PREFIXES: &[&str] = &[
    "ssl-client-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-auth-request-",
    "x-authentik-",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-remote-",
    "x-ssl-",
];

/// Whether a header is one that a server believes of the proxy before it.
pub fn is_claim(name: &HeaderName) -> bool {
    let text = name.as_str();
    NAMES.binary_search(&text).is_ok() || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// Takes them out, but for those that are a credential's slot.
pub fn strip_claims(headers: &mut HeaderMap, slots: &[HeaderName]) {
    remove_if(headers, |name| is_claim(name) && !slots.contains(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_order_and_are_lower_case() {
        for names in [NAMES, PREFIXES] {
            assert!(names.is_sorted());
            assert!(names.iter().all(|name| name.to_ascii_lowercase() == **name));
        }
    }

    #[test]
    fn what_a_client_says_of_itself_stays() {
        let is = |name: &str| is_claim(&name.parse().unwrap());
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "x-real-ip",
            "X-Remote-User",
            "X-Envoy-Original-Path",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "host",
            "x-request-id",
            "x-api-key",
            "x-goog-api-key",
            "x-amz-date",
            "x-ms-version",
            "via",
            "x-hosts",
        ] {
            assert!(!is(name), "{name}");
        }
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-user", "x-forwarded-for", "accept"] {
            headers.append(HeaderName::from_static(name), "a".parse().unwrap());
            headers.append(HeaderName::from_static(name), "b".parse().unwrap());
        }
        strip_claims(&mut headers, &[HeaderName::from_static("x-forwarded-user")]);
        assert_eq!((headers.len(), headers.keys_len()), (4, 2));
    }
}
