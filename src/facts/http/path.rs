//! Paths: percent-decoding and the refusal of what two servers would read differently. *Pure.*
//!
//! The raw path is forwarded as it was sent. So whatever some server, framework or proxy would
//! rewrite before it routes is refused: dot segments, empty segments, encoded slashes, backslashes,
//! path parameters, controls (RFC 3986, section 6; WHATWG URL for the backslash).

use percent_encoding::percent_decode_str;

/// Longest path that is read, bytes.
pub const PATH_BYTES_MAX: usize = 16 << 10;

/// Why a request cannot be read in one way only. The text is for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    PathTooLong,
    #[error("the path does not begin with a slash")]
    PathNotAbsolute,
    #[error("the path has a dot segment; send it resolved")]
    DotSegment,
    #[error("the path has an empty segment; send it without the doubled slash")]
    EmptySegment,
    #[error("the path has an encoded slash or backslash, or a backslash")]
    EncodedSeparator,
    #[error("the path has a semicolon; parameters in paths are read differently by servers")]
    PathParameter,
    #[error("the path has a percent sign that is not followed by two hex digits")]
    BrokenPercent,
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    #[error("the path has a control character")]
    Control,
    #[error("the path is not UTF-8")]
    NotUtf8,
    #[error("the query can be read in more than one way")]
    Query,
    #[error("the path names no object")]
    NoObject,
    #[error("the method is not one that the server routes")]
    Method,
    #[error("the request has no Host")]
    NoHost,
    #[error("the request has several Hosts")]
    ManyHosts,
    #[error("the request's target and its Host differ")]
    HostMismatch,
    #[error("the request is for another host than the one that was dialled")]
    Misdirected,
    #[error("the request has user information in its target")]
    UserInfo,
    #[error("CONNECT is not available here")]
    Connect,
    #[error("a header is named in Connection that is not hop-by-hop")]
    ConnectionHeader,
    #[error("a header's name has an underscore, which some servers read as a dash")]
    Underscore,
    #[error("the body is no JSON-RPC message that every server reads alike")]
    Rpc,
    #[error("a message of the Model Context Protocol must fit into `body_bytes_max`")]
    RpcTooLong,
    #[error("a batch holds at most {max} messages, each with an id of its own", max = crate::facts::mcp::MESSAGES_MAX)]
    RpcBatch,
    #[error("a header says another method or name than the message")]
    RpcHeader,
    #[error("this is not the endpoint's `path`")]
    OtherPath,
    #[error("{0} from an agent is not accepted")]
    ForbiddenHeader(&'static str),
}

/// The path decoded, if there is one way to read it.
///
/// # Errors
/// There are several ways, or it is no path.
pub fn normalize(raw: &str) -> Result<String, Malformed> {
    if raw.len() > PATH_BYTES_MAX {
        return Err(Malformed::PathTooLong);
    }
    if raw == "*" {
        return Ok(raw.to_owned());
    }
    if !raw.starts_with('/') {
        return Err(Malformed::PathNotAbsolute);
    }
    check_percent(raw.as_bytes())?;
    let path = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| Malformed::NotUtf8)?;
    // `%252e` decodes to `%2e`: a server that decodes twice would see a dot.
    if !matches!(check_percent(path.as_bytes()), Err(Malformed::BrokenPercent)) && path.contains('%') {
        return Err(Malformed::DoubleEncoding);
    }
    if path.chars().any(char::is_control) {
        return Err(Malformed::Control);
    }
    if path.contains('\\') {
        return Err(Malformed::EncodedSeparator);
    }
    if path.contains(';') {
        return Err(Malformed::PathParameter);
    }
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(Malformed::DotSegment),
            // A trailing slash is one empty last segment, and means what it says.
            "" if segments.peek().is_some() => return Err(Malformed::EmptySegment),
            _ => {}
        }
    }
    Ok(path.into_owned())
}

/// Every `%` has two hex digits, and none of them spells a separator.
fn check_percent(bytes: &[u8]) -> Result<(), Malformed> {
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(at + 1..at + 3).ok_or(Malformed::BrokenPercent)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Malformed::BrokenPercent);
        }
        if digits.eq_ignore_ascii_case(b"2f") || digits.eq_ignore_ascii_case(b"5c") {
            return Err(Malformed::EncodedSeparator);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(raw: &str, want: Result<&str, Malformed>) {
        assert_eq!(normalize(raw), want.map(str::to_owned), "{raw}");
    }

    #[test]
    fn paths_with_one_reading_are_decoded() {
        for (raw, path) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/A%20b", "/A b"),
            ("/%61dmin", "/admin"),
            ("/caf%C3%A9", "/café"),
            ("/repos/x/y.git", "/repos/x/y.git"),
            ("/...", "/..."),
            ("/.hidden", "/.hidden"),
            ("/a:b@c", "/a:b@c"),
            ("/100%25", "/100%"),
            ("/100%25/x", "/100%/x"),
            ("/Admin", "/Admin"),
            ("/a%2Bb", "/a+b"),
            ("/a+b", "/a+b"),
            ("/a%3Db=c", "/a=b=c"),
            ("/a,b", "/a,b"),
            ("/~user", "/~user"),
            ("/%7Euser", "/~user"),
            ("/..a", "/..a"),
            ("/a..", "/a.."),
            ("/a.b../c", "/a.b../c"),
            ("/v2/x/manifests/sha256:ab", "/v2/x/manifests/sha256:ab"),
            ("/%E2%82%AC", "/€"),
        ] {
            check(raw, Ok(path));
        }
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        use Malformed::*;
        for (raw, why) in [
            ("/v1/../admin", DotSegment),
            ("/./admin", DotSegment),
            ("/%2e%2e/admin", DotSegment),
            ("/v1/%2E./admin", DotSegment),
            ("/a/..", DotSegment),
            ("//admin", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a%2fb", EncodedSeparator),
            ("/a%5Cb", EncodedSeparator),
            ("/a\\b", EncodedSeparator),
            ("/a;x=1/b", PathParameter),
            ("/a%3bx", PathParameter),
            ("/%252e%252e/admin", DoubleEncoding),
            ("/%252fadmin", DoubleEncoding),
            ("/a%00", Control),
            ("/a%0d%0ab", Control),
            ("/a%zz", BrokenPercent),
            ("/a%2", BrokenPercent),
            ("/%ff", NotUtf8),
            ("/%c0%ae%c0%ae/admin", NotUtf8),
            ("/%e0%80%af", NotUtf8),
            ("/%c0%af", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/..", DotSegment),
            ("/.", DotSegment),
            ("/a/.", DotSegment),
            ("/a/./", DotSegment),
            ("/a/%2e", DotSegment),
            ("/a/%2E%2e/", DotSegment),
            ("/a/.%2e/b", DotSegment),
            ("//", EmptySegment),
            ("/a//", EmptySegment),
            ("///a", EmptySegment),
            ("/%2fadmin", EncodedSeparator),
            ("/a/..%2fadmin", EncodedSeparator),
            ("/a/..%5cadmin", EncodedSeparator),
            ("/..\\admin", EncodedSeparator),
            ("/..;/admin", PathParameter),
            ("/a;", PathParameter),
            ("/%25%32%65%25%32%65/admin", DoubleEncoding),
            ("/%2500", DoubleEncoding),
            ("/%7f", Control),
            ("/%c2%80", Control),
            ("/a%09", Control),
            ("/%", BrokenPercent),
            ("/%u002e", BrokenPercent),
            ("/a%g0", BrokenPercent),
            ("admin", PathNotAbsolute),
            ("", PathNotAbsolute),
        ] {
            let got = normalize(raw).unwrap_err();
            assert_eq!(got, why, "{raw}");
        }
    }

    #[test]
    fn a_path_over_the_limit_is_refused() {
        check(
            &format!("/{}", "a".repeat(PATH_BYTES_MAX)),
            Err(Malformed::PathTooLong),
        );
        assert!(normalize(&format!("/{}", "a".repeat(PATH_BYTES_MAX - 1))).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(raw in ".{0,64}") {
            let _ = normalize(&raw);
        }
    }
}
