//! What a person sees at a terminal of a node that waits to be logged in: the address, and the same as a QR code.

use std::io::Read as _;
use std::process::Stdio;

use tailkeep::ingress::tailnet::login::qr;

use crate::lab::until;
use crate::own::Own;

/// What a command prints at a terminal.
fn at_terminal(mut command: std::process::Command) -> String {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(terminal.slave)
        .spawn()
        .unwrap();
    // It holds the terminal, which has no end before.
    drop(command);
    let mut said = Vec::new();
    let mut reader = std::fs::File::from(terminal.master);
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = reader.read(&mut piece) {
        said.extend_from_slice(&piece[..length]);
    }
    child.wait().unwrap();
    String::from_utf8(said).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_person_at_a_terminal_sees_where_to_log_the_node_in_and_a_qr_code() {
    let Some(mut own) = Own::start("hostname = \"keeper\"", |_| String::new()) else {
        return;
    };
    own.again_at_terminal();
    let url = || own.shown()["login_url"].as_str().unwrap_or_default().to_owned();
    until("a person is asked for", || url().contains("/login/"));
    let url = url();
    own.gateway
        .until_says(&format!("Log the gateway in to the tailnet: {url}"));
    let drawn = qr(&url).unwrap();
    let log = own.gateway.log().replace('\r', "");
    assert!(log.contains(&drawn), "{log}");

    let shown = at_terminal(own.gateway.operator(&["tailnet"]));
    assert!(
        shown.contains(&format!("log in at  {url}")) && shown.contains(&drawn),
        "{shown}"
    );
    // Where no person looks, the address alone.
    let piped = own.gateway.operator(&["tailnet"]).output().unwrap();
    let piped = String::from_utf8_lossy(&piped.stdout).into_owned();
    assert!(piped.contains(&url) && !piped.contains('\x1b'), "{piped}");

    // It works, and is asked for no longer.
    let said = own
        .machine
        .says("curl", &["-sS", &format!("{url}?login=bob@example.com")]);
    assert!(said.contains("logged in"), "{said}");
    own.until_state("Running");
    let shown = at_terminal(own.gateway.operator(&["tailnet"]));
    assert!(!shown.contains("log in at") && !shown.contains('\x1b'), "{shown}");
}
