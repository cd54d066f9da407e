//! An auth key for one login, from the control server's API, by an OAuth client's secret.
//!
//! As Tailscale's own command line does it: the secret may carry `?ephemeral=`, `?preauthorized=` and
//! `?baseURL=` behind it. <https://tailscale.com/kb/1215/oauth-clients>

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use crate::credential::Secret;

/// What such a secret begins with, by which it is told from an auth key.
pub const PREFIX: &str = "tskey-client-";

/// The API that is asked unless the secret says another.
const API: &str = "https://api.tailscale.com";

/// How long the API may take for an answer.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Seconds for which the key is good: it is used at once.
const KEY_S: u32 = 300;

/// No key was to be had. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum OauthError {
    #[error("the OAuth client's secret is no text")]
    NoText,
    #[error(
        "the OAuth client's secret has an option that is not known, {0:?}: ephemeral, preauthorized and baseURL are"
    )]
    Option(String),
    #[error("{0} would carry the OAuth client's secret in the clear")]
    Clear(String),
    #[error("the tailnet's API at {0} is not reached: {1}")]
    Down(String, String),
    #[error("the tailnet's API refused ({0}): {1}")]
    Refused(u16, String),
    #[error("the tailnet's API answers with what is no answer")]
    Answer,
}

/// A secret, read.
struct Client<'a> {
    secret: &'a str,
    api: String,
    ephemeral: bool,
    preauthorized: bool,
}

fn read(given: &Secret) -> Result<Client<'_>, OauthError> {
    let given = std::str::from_utf8(given.expose()).map_err(|_| OauthError::NoText)?;
    let (secret, options) = given.trim().split_once('?').unwrap_or((given.trim(), ""));
    let mut client = Client {
        secret,
        api: API.to_owned(),
        // The state folder keeps the node; one that is gone with each restart would need its routes approved anew.
        ephemeral: false,
        preauthorized: false,
    };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        match (name, value.as_str()) {
            ("ephemeral", "true" | "false") => client.ephemeral = value == "true",
            ("preauthorized", "true" | "false") => client.preauthorized = value == "true",
            ("baseURL", _) => client.api = value.trim_end_matches('/').to_owned(),
            _ => return Err(OauthError::Option(name.to_owned())),
        }
    }
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    let is_local = |api: &str| {
        let rest = local.iter().find_map(|local| api.strip_prefix(local));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    };
    if !client.api.starts_with("https://") && !is_local(&client.api) {
        return Err(OauthError::Clear(client.api));
    }
    Ok(client)
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

/// A key for one node with these tags.
///
/// # Errors
/// See [`OauthError`].
pub async fn key(given: &Secret, tags: &[String]) -> Result<Secret, OauthError> {
    key_within(given, tags, ANSWER_WAIT).await
}

/// As [`key`]; `wait` is for each of its two answers.
async fn key_within(given: &Secret, tags: &[String], wait: Duration) -> Result<Secret, OauthError> {
    let client = read(given)?;
    let down = |error: reqwest::Error| OauthError::Down(client.api.clone(), error.without_url().to_string());
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(wait)
        .build()
        .map_err(down)?;
    let secret = utf8_percent_encode(client.secret, NON_ALPHANUMERIC);
    let form = format!("grant_type=client_credentials&client_id=tailkeep&client_secret={secret}");
    let request = http
        .post(format!("{}/api/v2/oauth/token", client.api))
        .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form);
    let token: Token = ask(request, &client.api).await?;
    let token = Zeroizing::new(token.access_token);
    let create = json!({
        "reusable": false, "ephemeral": client.ephemeral, "preauthorized": client.preauthorized, "tags": tags,
    });
    let wanted = json!({ "capabilities": { "devices": { "create": create } }, "expirySeconds": KEY_S });
    let request = http
        .post(format!("{}/api/v2/tailnet/-/keys", client.api))
        .bearer_auth(token.as_str())
        .json(&wanted);
    let key: Key = ask(request, &client.api).await?;
    Ok(Secret::new(key.key.into_bytes()))
}

async fn ask<T: DeserializeOwned>(request: reqwest::RequestBuilder, api: &str) -> Result<T, OauthError> {
    let down = |error: reqwest::Error| OauthError::Down(api.to_owned(), error.without_url().to_string());
    let mut answer = request.send().await.map_err(down)?;
    let mut told = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    while let Some(piece) = answer.chunk().await.map_err(down)? {
        if told.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(OauthError::Answer);
        }
        told.extend_from_slice(&piece);
    }
    let status = answer.status();
    if !status.is_success() {
        let said: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&told).unwrap_or_default();
        let text = ["message", "error_description", "error"]
            .iter()
            .find_map(|name| said.get(*name)?.as_str());
        let text: String = text.unwrap_or_default().chars().take(200).collect();
        return Err(OauthError::Refused(status.as_u16(), text));
    }
    serde_json::from_slice(&told).map_err(|_| OauthError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<(String, String, bool, bool), OauthError> {
        let secret = Secret::new(text.as_bytes().to_vec());
        let client = read(&secret)?;
        Ok((
            client.secret.to_owned(),
            client.api.clone(),
            client.ephemeral,
            client.preauthorized,
        ))
    }

    #[test]
    fn options_stand_behind_the_secret() {
        let plain = options("tskey-client-a").unwrap();
        assert_eq!(plain, ("tskey-client-a".to_owned(), API.to_owned(), false, false));
        let all = "tskey-client-a?ephemeral=true&preauthorized=true&baseURL=http%3A%2F%2F127.0.0.1:81/";
        let all = options(all).unwrap();
        assert_eq!(
            all,
            (
                "tskey-client-a".to_owned(),
                "http://127.0.0.1:81".to_owned(),
                true,
                true
            )
        );
        for wrong in ["a?ephemeral=maybe", "a?color=red", "a?ephemeral"] {
            assert!(matches!(options(wrong), Err(OauthError::Option(_))), "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_never_sent_in_the_clear() {
        for api in [
            "http://api.example.com",
            "http://127.0.0.1.example.com",
            "http://localhosts",
            "ftp://x",
            "",
        ] {
            let clear = options(&format!("tskey-client-a?baseURL={api}"));
            assert!(matches!(clear, Err(OauthError::Clear(_))), "{api}");
        }
    }

    /// An API that takes one connection, and answers its first request with this; it closes it at the second
    /// or never.
    fn api(answer: Vec<u8>, closes: bool) -> Secret {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).unwrap() > 0);
            let _ = stream.write_all(&answer);
            while stream.read(&mut asked).is_ok_and(|read| read > 0) && !closes {}
        });
        Secret::new(format!("tskey-client-a?baseURL={url}").into_bytes())
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_is_waited_for_no_longer_than_so() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let client = api(answer.as_bytes().to_vec(), false);
            let asked = key_within(&client, &[], Duration::from_millis(50));
            // Without a limit it would never end.
            let failed = tokio::time::timeout(ANSWER_WAIT, asked).await;
            assert!(matches!(failed, Ok(Err(OauthError::Down(..)))), "{answer}");
        }
    }

    #[tokio::test]
    async fn an_answer_has_a_size() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let token = br#"{"access_token":"t"}"#;
        for (bytes, is_read) in [(ANSWER_BYTES_MAX, true), (ANSWER_BYTES_MAX + 1, false)] {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
            let space = vec![b' '; bytes - token.len()];
            let client = api([head.as_bytes(), token, &space].concat(), true);
            // With the token it would ask for the key, and nobody is there any more.
            let failed = key(&client, &[]).await.err().unwrap();
            assert_eq!(
                matches!(failed, OauthError::Down(..)),
                is_read,
                "{bytes}: {failed}"
            );
            assert_eq!(
                matches!(failed, OauthError::Answer),
                !is_read,
                "{bytes}: {failed}"
            );
        }
    }
}
