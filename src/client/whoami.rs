//! What the gateway tells an agent of itself, asked inside the tunnel: `http://tailkeep.internal/`.

use std::time::Duration;

use crate::identity::manifest::{HOST, Manifest};

/// For the whole exchange, in seconds.
pub const WHOAMI_SECONDS_MAX: u64 = 10;
/// Largest accepted answer, in bytes.
pub const WHOAMI_BYTES_MAX: usize = 4 << 20;

/// Why it is not told.
#[derive(Debug, thiserror::Error)]
pub enum WhoamiError {
    #[error(
        "{0} does not answer: {1}. On a tailnet whose DNS does not know that name: --gateway NAME, the name of its node"
    )]
    Unreachable(String, String),
    #[error("{0}")]
    Refused(String),
    #[error("the answer could not be read: {0}")]
    Answer(String),
}

/// Asks the gateway at `host`, a name or an address with or without a port; [`HOST`] where `None`.
///
/// # Errors
/// Nobody answers there, or not with a manifest; the gateway has no profile for this machine.
pub async fn ask(host: Option<&str>) -> Result<Manifest, WhoamiError> {
    let host = match host.map(str::parse::<std::net::Ipv6Addr>) {
        Some(Ok(v6)) => format!("[{v6}]"),
        _ => host.unwrap_or(HOST).to_owned(),
    };
    let unreachable = |error: reqwest::Error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        WhoamiError::Unreachable(format!("http://{host}/"), text)
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(WHOAMI_SECONDS_MAX))
        .build()
        .map_err(unreachable)?;
    // Whatever leads there, it is asked for what it is.
    let request = client
        .get(format!("http://{host}/"))
        .header(reqwest::header::HOST, HOST);
    let mut answer = request.send().await.map_err(unreachable)?;
    let mut told = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        if told.len() + piece.len() > WHOAMI_BYTES_MAX {
            let text = format!("longer than {WHOAMI_BYTES_MAX} bytes");
            return Err(WhoamiError::Answer(text));
        }
        told.extend_from_slice(&piece);
    }
    if !answer.status().is_success() {
        let body: serde_json::Value = serde_json::from_slice(&told).unwrap_or_default();
        let reason = body["error"]["reason"].as_str().map(str::to_owned);
        return Err(WhoamiError::Refused(
            reason.unwrap_or_else(|| answer.status().to_string()),
        ));
    }
    serde_json::from_slice(&told).map_err(|error| WhoamiError::Answer(error.to_string()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_answer_has_a_size() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for (bytes, is_long) in [(WHOAMI_BYTES_MAX, false), (WHOAMI_BYTES_MAX + 1, true)] {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let host = server.local_addr().unwrap().to_string();
            tokio::spawn(async move {
                let (mut stream, _) = server.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                let body = vec![b' '; bytes];
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            });
            let told = ask(Some(&host)).await;
            assert!(
                matches!(&told, Err(WhoamiError::Answer(text)) if text.contains("longer") == is_long),
                "{told:?}"
            );
        }
    }
}
