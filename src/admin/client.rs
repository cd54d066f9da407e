//! The API's client, for the operator's commands.

use std::path::PathBuf;

use serde_json::Value;

/// Where the gateway's API is.
#[derive(Clone, Debug, clap::Args)]
pub struct Reach {
    /// The gateway's admin socket.
    #[arg(
        long,
        env = "TAILKEEP_SOCKET",
        default_value = ".tailkeep/admin.sock",
        value_name = "PATH",
        global = true
    )]
    socket: PathBuf,
}

/// The API could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("no gateway answers at {0}: {1}")]
    Unreachable(String, reqwest::Error),
    #[error("{0}")]
    Refused(String),
}

impl Reach {
    /// Sends one request and returns the answer's JSON.
    ///
    /// # Errors
    /// No gateway is there, or it refused; the text is the gateway's own.
    pub fn ask(&self, method: reqwest::Method, path: &str, body: Option<Vec<u8>>) -> Result<Value, ApiError> {
        let shown = self.socket.display().to_string();
        let unreachable = |error| ApiError::Unreachable(shown.clone(), error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ApiError::Refused(error.to_string()))?;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        runtime.block_on(async {
            let client = reqwest::Client::builder()
                .unix_socket(self.socket.clone())
                .build();
            let mut request = client
                .map_err(unreachable)?
                .request(method, format!("http://gateway{path}"));
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body);
            }
            let answer = request.send().await.map_err(unreachable)?;
            let status = answer.status();
            let value: Value = answer.json().await.map_err(unreachable)?;
            if status.is_success() {
                return Ok(value);
            }
            Err(ApiError::Refused(
                value["error"]
                    .as_str()
                    .unwrap_or("the gateway refused")
                    .to_owned(),
            ))
        })
    }

    /// [`Reach::ask`] with GET.
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask(reqwest::Method::GET, path, None)
    }
}
