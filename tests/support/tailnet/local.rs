//! HTTP over a Unix socket, one request a connection.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The status and the body of an answer; 0 and the error where nobody answers.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    match try_ask(socket, method, path, body) {
        Ok(answer) => answer,
        Err(error) => (0, error.to_string()),
    }
}

fn try_ask(socket: &Path, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(super::SOON))?;
    // Of version 1.0, so that the answer comes without chunks and ends the connection.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: local-tailscaled.sock\r\nUser-Agent: tests\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// A connection that tailscaled makes for its owner, as `tailscale nc` does.
pub fn dial(socket: &Path, host: &str, port: u16) -> Result<UnixStream, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(super::SOON)).map_err(failed)?;
    write!(
        stream,
        "POST /localapi/v0/dial HTTP/1.1\r\nHost: local-tailscaled.sock\r\nConnection: upgrade\r\n\
         Upgrade: ts-dial\r\nDial-Host: {host}\r\nDial-Port: {port}\r\nContent-Length: 0\r\n\r\n"
    )
    .map_err(failed)?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    match head.contains(" 101 ") {
        true => Ok(stream),
        false => {
            let mut rest = vec![0; 300];
            let length = stream.read(&mut rest).unwrap_or(0);
            Err(format!("{head}{}", String::from_utf8_lossy(&rest[..length])))
        }
    }
}
