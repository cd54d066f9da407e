//! The control server of a test, steered by its admin socket (`tailscale/fixture/admin.go`).

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::{Machine, local, parse, program, until};

/// A running control server with its relay.
pub struct Control {
    /// What nodes are told as `ControlURL`.
    pub url: String,
    /// The ACME directory of the authority that issues nodes' certificates, and the file by which it is trusted.
    pub acme: (String, PathBuf),
    socket: PathBuf,
    child: Child,
}

impl Control {
    pub fn start(machine: &Machine, folder: &Path, address: &str, policy: &str) -> Control {
        let socket = folder.join("control.sock");
        let acme_ca = folder.join("acme-ca.pem");
        let file = folder.join("tailnet-policy.hujson");
        std::fs::write(&file, policy).unwrap();
        let child = machine
            .command(program("control"))
            .args(["-ip", address, "-admin"])
            .arg(&socket)
            .arg("-acme-ca")
            .arg(&acme_ca)
            .arg("-policy")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.join("control.log")).unwrap())
            .spawn()
            .unwrap();
        let control = Control {
            url: format!("http://{address}:8080"),
            acme: (format!("https://{address}:8081/dir"), acme_ca),
            socket,
            child,
        };
        until("the control server is there", || {
            local::ask(&control.socket, "GET", "/nodes", "").0 == 200
        });
        control
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let (status, body) = local::ask(&self.socket, method, path, body);
        assert_eq!(status, 200, "{method} {path}: {body}");
        body
    }

    /// A new policy file.
    pub fn policy(&self, text: &str) {
        self.ask("PUT", "/policy", text);
    }

    /// Names: `{"Split": {"prod.internal": ["100.64.0.1"]}, "Records": {"name": "address"}}`.
    pub fn dns(&self, wanted: &Value) {
        self.ask("PUT", "/dns", &wanted.to_string());
    }

    /// An auth key for one node. With tags the node has these; without, those that it asks for.
    pub fn key(&self, tags: &[&str]) -> String {
        self.ask("POST", &format!("/keys?tags={}", tags.join(",")), "")
    }

    /// The secret of an OAuth client.
    pub fn client(&self) -> String {
        self.ask("POST", "/clients", "")
    }

    /// Every node: Name, StableID, Login, Addresses, Tags, Advertised, Approved, Primary, Online, Expired, Shared.
    pub fn nodes(&self) -> Vec<Value> {
        match parse(&self.ask("GET", "/nodes", "")) {
            Value::Array(nodes) => nodes,
            other => panic!("{other}"),
        }
    }

    /// One of [`Control::nodes`], or null.
    pub fn node(&self, name: &str) -> Value {
        let found = self.nodes().into_iter().find(|node| node["Name"] == name);
        found.unwrap_or_default()
    }

    pub fn set_tags(&self, name: &str, tags: &[&str]) {
        self.ask("PUT", &format!("/nodes/{name}/tags"), &tags.join(","));
    }

    /// Makes it a node of another tailnet that was shared in.
    pub fn set_domain(&self, name: &str, domain: &str) {
        self.ask("PUT", &format!("/nodes/{name}/domain"), domain);
    }

    /// Its key counts no more: it has to log in again.
    pub fn expire(&self, name: &str) {
        self.ask("POST", &format!("/nodes/{name}/expire"), "");
    }

    pub fn remove(&self, name: &str) {
        self.ask("DELETE", &format!("/nodes/{name}"), "");
    }

    /// Whether nodes have certificates: `off`, as at first; `on`; `unpublished`, where the authority refuses each.
    pub fn certificates(&self, wanted: &str) {
        self.ask("PUT", "/certificates", wanted);
    }

    /// The certificate of the authority that issues those of nodes, PEM.
    pub fn authority(&self) -> String {
        self.ask("GET", "/authority", "")
    }

    /// Tells whoever asks that this certificate, PEM, is to be renewed at once.
    pub fn wants_renewed(&self, certificate: &str) {
        let at_once =
            json!({ "suggestedWindow": { "start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z" } });
        let told = json!({ "Certificate": certificate, "ARIResponse": at_once.to_string() });
        self.ask("POST", "/set-renewal-info/", &told.to_string());
    }

    /// The control server is gone; the relay stays.
    pub fn down(&self) {
        self.ask("POST", "/down", "");
    }

    /// It is back, and knows everybody.
    pub fn up(&self) {
        self.ask("POST", "/up", "");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
