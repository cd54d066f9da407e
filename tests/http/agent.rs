//! Agents: curl, and hyper where curl cannot say what is wanted.

use std::net::SocketAddr;
use std::process::Output;

use tokio::process::Command;

use crate::world::World;

/// What curl printed: the body, then a line of `--write-out`.
pub struct Curl {
    pub body: Vec<u8>,
    pub status: u16,
    pub version: String,
    pub errors: String,
    pub exit: i32,
    /// TCP connections that were made.
    pub connects: u32,
}

impl Curl {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

const MARK: &[u8] = b"\n@@@";

/// Runs curl as an agent that resolves every name to `gateway`.
pub async fn curl(world: &World, gateway: SocketAddr, args: &[&str]) -> Curl {
    let mut all = curls(world, gateway, &[args]).await;
    all.pop().unwrap()
}

/// Runs curl for several requests in one process, over one connection where it can.
pub async fn curls(world: &World, gateway: SocketAddr, requests: &[&[&str]]) -> Vec<Curl> {
    let output = run(world, gateway, requests).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut rest = output.stdout.as_slice();
    let mut all = Vec::new();
    for _ in requests {
        let at = rest.windows(MARK.len()).position(|window| window == MARK);
        let at = at.unwrap_or_else(|| panic!("curl: {errors}"));
        let (body, line) = (&rest[..at], &rest[at + MARK.len()..]);
        let end = line.iter().position(|&byte| byte == b';').unwrap();
        let words = String::from_utf8(line[..end].to_vec()).unwrap();
        let mut words = words.split(' ').map(str::to_owned);
        let mut next = || words.next().unwrap_or_default();
        all.push(Curl {
            body: body.to_vec(),
            status: next().parse().unwrap(),
            version: next(),
            connects: next().parse().unwrap(),
            errors: errors.clone(),
            exit: output.status.code().unwrap_or(-1),
        });
        rest = &line[end + 1..];
    }
    all
}

async fn run(world: &World, gateway: SocketAddr, requests: &[&[&str]]) -> Output {
    let to = format!("::127.0.0.1:{}", gateway.port());
    let ca = world.ca();
    let mut command = Command::new("curl");
    for (number, args) in requests.iter().enumerate() {
        if number > 0 {
            command.arg("--next");
        }
        command
            .args(["-sS", "--max-time", "20", "--cacert", &ca, "--connect-to", &to])
            .args(["-w", "\n@@@%{http_code} %{http_version} %{num_connects};"])
            .args(*args);
    }
    command
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}
