//! The join URL: `https://gateway:8738/join?token=…&pin=sha256:…`.

/// Longest accepted join URL, in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// A parsed join URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// Host and port, an IPv6 host in brackets.
    pub authority: String,
    /// The single-use token.
    pub token: String,
    /// SHA-256 of the gateway CA's DER.
    pub pin: [u8; 32],
}

/// Why a join URL was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InviteError {
    #[error("the join URL is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("the join URL must begin with https:// and have the path /join")]
    Shape,
    #[error("the join URL has no token")]
    NoToken,
    #[error("the join URL has no pin of the form sha256:<64 hex digits>")]
    NoPin,
}

impl Invite {
    /// Reads a join URL as `tailkeep peers add` prints it.
    pub fn parse(url: &str) -> Result<Self, InviteError> {
        if url.len() > URL_BYTES_MAX {
            return Err(InviteError::TooLong);
        }
        let uri: http::Uri = url.trim().parse().map_err(|_| InviteError::Shape)?;
        let authority = uri.authority().ok_or(InviteError::Shape)?;
        if uri.scheme_str() != Some("https") || uri.path() != "/join" || authority.as_str().contains('@') {
            return Err(InviteError::Shape);
        }
        let (mut token, mut pin) = (None, None);
        for pair in uri.query().unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("token", value)) if !value.is_empty() => token = Some(decode(value)),
                Some(("pin", value)) => pin = parse_pin(&decode(value)),
                _ => {}
            }
        }
        Ok(Self {
            authority: authority.as_str().to_owned(),
            token: token.ok_or(InviteError::NoToken)?,
            pin: pin.ok_or(InviteError::NoPin)?,
        })
    }
}

fn decode(value: &str) -> String {
    percent_encoding::percent_decode_str(value)
        .decode_utf8_lossy()
        .into_owned()
}

fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut pin = [0; 32];
    for (index, byte) in pin.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_url_and_refuses_each_missing_part() {
        let pin = "ab".repeat(32);
        let good = format!("https://gw:8738/join?token=t%2D1&pin=sha256:{pin}");
        let invite = Invite::parse(&good).ok();
        assert_eq!(invite.as_ref().map(|i| i.token.as_str()), Some("t-1"));
        assert_eq!(invite.map(|i| i.pin), Some([0xab; 32]));
        let check = |url: &str, error| assert_eq!(Invite::parse(url).err(), Some(error), "{url}");
        check(&good.replace("https", "http"), InviteError::Shape);
        check(&good.replace("/join", "/x"), InviteError::Shape);
        check(&good.replace("gw:", "u@gw:"), InviteError::Shape);
        check(&good.replace("token=t%2D1", "token="), InviteError::NoToken);
        check(&good.replace("sha256:ab", "sha256:zz"), InviteError::NoPin);
        check(&good.replace("sha256:", "sha256:+"), InviteError::NoPin);
        check(
            &format!("{good}{}", "x".repeat(URL_BYTES_MAX)),
            InviteError::TooLong,
        );
    }
}
