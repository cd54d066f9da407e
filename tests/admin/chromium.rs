//! A real Chromium, driven by its WebDriver over plain HTTP.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::SOON;

/// A browser with one window.
pub struct Chromium {
    driver: Child,
    client: reqwest::Client,
    /// `http://127.0.0.1:PORT/session/ID`.
    session: String,
    _profile: tempfile::TempDir,
}

/// Where screenshots go, for people to look at.
fn pictures() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/page");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

impl Chromium {
    /// `None`, with a line that says so, where there is no Chromium.
    pub async fn start() -> Option<Chromium> {
        // What the driver and its browser leave lying goes with the profile.
        let profile = tempfile::tempdir().unwrap();
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = driver else {
            eprintln!("SKIPPED: there is no chromedriver; scripts/test installs it");
            return None;
        };
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let said = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            said.trim_end_matches('.').parse::<u16>().ok()
        });
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!(
            "http://127.0.0.1:{}/session",
            port.expect("chromedriver names its port")
        );
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--window-size=1280,800".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Chromium {
            driver,
            client,
            session: base,
            _profile: profile,
        };
        let opened = browser.post("", wanted).await;
        browser.session = format!("{}/{}", browser.session, opened["sessionId"].as_str().unwrap());
        Some(browser)
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let asked = self.client.post(url).json(&body).timeout(6 * SOON).send().await;
        let answer: Value = asked.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// The value of a script's `return`.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    /// Waits until a script's expression is true.
    #[track_caller]
    pub fn until(&self, expression: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        // What is not there yet is no error.
        let script = format!("try {{ return Boolean({expression}) }} catch {{ return false }}");
        async move {
            let began = Instant::now();
            while self.run(&script).await != json!(true) {
                if began.elapsed() > SOON {
                    self.picture("failed").await;
                    let text = self.run("return document.body.innerText").await;
                    panic!("{caller}: never {script}; the page says {text}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Keys, as a keyboard's: `\u{e007}` is Enter.
    pub async fn keys(&self, keys: &str) {
        let actions = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        });
        let actions: Vec<Value> = actions.collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.post("/actions", json!({ "actions": [keyboard] })).await;
    }

    async fn cdp(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", body).await
    }

    /// The size of a telephone's or another window.
    pub async fn size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700 });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features }))
            .await;
    }

    /// Keeps a picture of the window under `target/page`.
    pub async fn picture(&self, name: &str) {
        use base64::Engine as _;
        let url = format!("{}/screenshot", self.session);
        let answer: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        let bytes = base64::engine::general_purpose::STANDARD.decode(answer["value"].as_str().unwrap());
        std::fs::write(pictures().join(format!("{name}.png")), bytes.unwrap()).unwrap();
    }

    /// What axe finds wrong for people who see, hear or move otherwise: nothing.
    #[track_caller]
    pub fn accessible(&self, name: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let axe = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe.min.js");
            let Ok(axe) = std::fs::read_to_string(axe) else {
                eprintln!("SKIPPED: axe is not there; scripts/test installs it");
                return;
            };
            self.run(&axe).await;
            let script = "const done = arguments[arguments.length - 1];
                axe.run({ resultTypes: ['violations'] }).then(found => done(found.violations.map(one =>
                  one.id + ': ' + one.nodes.map(node => node.html + ' ' + node.failureSummary).join(' | '))),
                  error => done([String(error)]))";
            let found = self
                .post("/execute/async", json!({ "script": script, "args": [] }))
                .await;
            assert_eq!(found, json!([]), "{caller}: {name}");
        }
    }

    /// What the browser complained of since the last call.
    pub async fn complaints(&self) -> Vec<String> {
        let lines = self.post("/se/log", json!({ "type": "browser" })).await;
        let lines = lines.as_array().unwrap().iter();
        lines
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver ends the browser that it started.
        let end = Command::new("curl")
            .args(["-s", "-X", "DELETE", "--max-time", "10", &self.session])
            .stdout(Stdio::null())
            .status();
        let _ = end;
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
