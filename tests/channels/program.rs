//! The whole program: `channel_listen`.

use std::process::Stdio;

use crate::SOON;
use crate::folder::Folder;

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_taken_at_channel_listen() {
    let folder = Folder::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let policy = format!(
        "gateway {{\n  state_dir = \"{}\"\n  dashboard_listen = \"127.0.0.1:0\"\n  channel_listen = \"{address}\"\n}}\n",
        folder.path().join("state").display()
    );
    let path = folder.path().join("policy.hcl");
    std::fs::write(&path, policy).unwrap();
    let mut gateway = tokio::process::Command::new(env!("CARGO_BIN_EXE_tailkeep"))
        .args(["gateway", "-c"])
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let asked = async {
        loop {
            if let Ok(answer) = reqwest::Client::new()
                .post(format!("http://{address}/slack/x"))
                .send()
                .await
            {
                return answer;
            }
            assert!(gateway.try_wait().unwrap().is_none(), "the gateway has ended");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let answer = tokio::time::timeout(SOON, asked)
        .await
        .expect("nobody listens there");
    assert_eq!(answer.status(), 404);
    assert!(answer.text().await.unwrap().contains("no such channel"));
    gateway.kill().await.unwrap();
}
