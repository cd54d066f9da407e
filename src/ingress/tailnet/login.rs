//! How the node of our own tailscaled becomes one of the tailnet: by a key, or by a person.

use std::io::IsTerminal as _;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::localapi::{LocalApi, LocalApiError};
use super::oauth::{self, OauthError};
use crate::credential::Secret;
use crate::credential::store::Missing;

/// The node could not be logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Secret(#[from] Missing),
    #[error(transparent)]
    Oauth(#[from] OauthError),
    #[error(transparent)]
    LocalApi(#[from] LocalApiError),
}

/// Reads the secret anew for each login, so that one that was replaced is used.
pub type Read = Box<dyn Fn() -> Result<Secret, Missing> + Send + Sync>;

/// What the node is to be, and what lets it in.
pub struct Login {
    /// Without one, Tailscale's control server.
    pub control_url: Option<String>,
    /// Without one, the machine's name.
    pub hostname: Option<String>,
    pub tags: Vec<String>,
    /// An auth key or an OAuth client's secret; without one, a person logs the node in.
    pub secret: Option<Read>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("control_url", &self.control_url)
            .field("hostname", &self.hostname)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// tailscaled's prefs (`ipn.Prefs`), all of them: what is not named is as it is by default. Peers'
    /// own addresses are to be seen, this machine's names are left alone, and nobody's routes are taken.
    pub fn prefs(&self, routes: &[IpNet]) -> Value {
        let mut prefs = json!({
            "WantRunning": true, "AdvertiseTags": self.tags, "AdvertiseRoutes": routes,
            "NoSNAT": true, "CorpDNS": false, "RouteAll": false,
        });
        if let Some(url) = &self.control_url {
            prefs["ControlURL"] = json!(url);
        }
        if let Some(name) = &self.hostname {
            prefs["Hostname"] = json!(name);
        }
        prefs
    }

    /// Begins a login. Whether it ends well is told by the bus; where a person is needed, the state
    /// says the address.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn begin(&self, api: &LocalApi, routes: &[IpNet]) -> Result<(), LoginError> {
        if let Some(read) = &self.secret {
            let secret = read()?;
            let key = match secret.expose().starts_with(oauth::PREFIX.as_bytes()) {
                true => oauth::key(&secret, &self.tags).await?,
                false => secret,
            };
            api.start(&self.prefs(routes), Some(&key)).await?;
        }
        Ok(api.login_interactive().await?)
    }
}

/// Tells the person at the terminal, where there is one, how to log the node in. Whoever has the address
/// can make the node their own: it goes into no log.
pub fn show(url: &str) {
    tracing::warn!("a person has to log the node in; `tailkeep tailnet` shows how");
    if std::io::stderr().is_terminal()
        && let Some(code) = qr(url)
    {
        eprintln!("\n{code}\n\nLog the gateway in to the tailnet: {url}\n");
    }
}

/// A URL as a QR code of half blocks, for a dark terminal as for a light one.
pub fn qr(url: &str) -> Option<String> {
    let code = qrcode::QrCode::with_error_correction_level(url, qrcode::EcLevel::L).ok()?;
    let mut drawn = code.render::<qrcode::render::unicode::Dense1x2>();
    // The colours are said, since a reader wants dark on light with a margin.
    let drawn = drawn.quiet_zone(true).build();
    let lines = drawn.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m"));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// A URL as a QR code for a page: how many modules wide it is, and its dark ones as an SVG path, a unit each.
pub fn qr_path(url: &str) -> Option<(usize, String)> {
    let code = qrcode::QrCode::with_error_correction_level(url, qrcode::EcLevel::L).ok()?;
    let width = code.width();
    let modules = code.to_colors().into_iter().enumerate();
    let dark = modules.filter(|(_, colour)| *colour == qrcode::Color::Dark);
    let path = dark.map(|(at, _)| format!("M{} {}h1v1h-1z", at % width, at / width));
    Some((width, path.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_drawn() {
        let drawn = qr("https://login.example.com/a/0123456789abcdef").unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        // 29 modules and a margin of 4 at both ends, two to a line.
        assert_eq!(lines.len(), 19, "{drawn}");
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("\x1b[30;107m") && line.ends_with("\x1b[0m"))
        );
        assert!(qr(&"x".repeat(8000)).is_none() && qr_path(&"x".repeat(8000)).is_none());
    }

    #[test]
    fn a_url_is_drawn_for_a_page_as_for_a_terminal() {
        let url = "https://login.example.com/a/0123456789abcdef";
        let (width, path) = qr_path(url).unwrap();
        let drawn = qr(url).unwrap();
        let lines: Vec<Vec<char>> = drawn
            .lines()
            .map(|line| line.trim_start_matches("\x1b[30;107m").chars().collect())
            .collect();
        for at in 0..width * width {
            let (x, y) = (at % width, at / width);
            // Two modules to a character, with a margin of four.
            let character = lines[(y + 4) / 2][x + 4];
            let is_dark = match y % 2 {
                0 => ['█', '▀'].contains(&character),
                _ => ['█', '▄'].contains(&character),
            };
            assert_eq!(path.contains(&format!("M{x} {y}h1v1h-1z")), is_dark, "{x} {y}");
        }
    }
}
