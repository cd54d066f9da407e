//! Programs of others in a run, each by its own default means and none told to trust anybody: they trust the gateway
//! beside all that they trusted, and nobody else.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::world::{World, can_run};

const JAVA: &str = "public class Get { public static void main(String[] a) throws Exception {
  var c = (java.net.HttpURLConnection) new java.net.URL(a[0]).openConnection();
  System.out.println(c.getResponseCode()); } }";
const NODE: &str = "require('https').get(process.argv[2], r => { console.log(r.statusCode); r.resume(); })\
    .on('error', e => { console.error(e.message); process.exit(1); })";
const PYTHON: &str = "import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1]).status)";
const GO: &str = "package main
import (\"fmt\"; \"net/http\"; \"os\")
func main() { r, err := http.Get(os.Args[1]); if err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) }; fmt.Println(r.StatusCode) }";
/// Its verdict is that of OpenSSL alone: it does not ask for the page.
const OPENSSL: &str = "at=${1#https://}; at=${at%%/*}; case $at in *:*) ;; *) at=$at:443 ;; esac
openssl s_client -verify_return_error -verify_hostname ${at%%:*} -servername ${at%%:*} -connect $at </dev/null > /dev/null && echo 200";
/// Both servers have a repository of one branch, as plain files.
const GIT: &str = "git ls-remote ${1%/*}/r | grep -q refs/heads/main && echo 200";
/// The gateway's cluster is the one of KUBECONFIG; the others are named.
const KUBECTL: &str = "case $1 in *cluster.test*) server= ;; *) server=--server=${1%/version} ;; esac
$KUBECTL get --raw /version $server | grep -q major && echo 200";

/// What a server of either side has.
const SERVED: [(&str, &str); 3] = [
    ("version", "{\"major\": \"1\", \"minor\": \"36\"}"),
    (
        "r/info/refs",
        "0123456789abcdef0123456789abcdef01234567\trefs/heads/main\n",
    ),
    ("r/HEAD", "ref: refs/heads/main\n"),
];

/// Servers of the same files, one for each certificate that is named, until standard input ends. Says their ports.
const SERVE: &str = "import functools, http.server, os, ssl, sys, threading
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
    def send_head(self):
        self.path = self.path.partition('?')[0]
        return super().send_head()
handler = functools.partial(Quiet, directory=sys.argv[1] + '/served')
ports = []
for name in sys.argv[2:]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1] + f'/{name}.pem', sys.argv[1] + f'/{name}.key')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ports.append(server.server_port)
print(*ports, flush=True)
sys.stdin.read()";

/// Asks the gateway (`$2`) and then each server with what follows; one line each, `none` where nothing was had.
const ASK: &str = r#"folder=$1; gateway=$2; shift 2
    mkfifo "$folder/ports" "$folder/stop"
    python3 "$folder/serve.py" "$folder" system user nobody < "$folder/stop" > "$folder/ports" & exec 9> "$folder/stop"
    read system user nobody < "$folder/ports"; rm "$folder/ports" "$folder/stop"
    for at in "$gateway" localhost:$system localhost:$user localhost:$nobody; do
      echo "$at" >&2; got=$("$@" "https://$at/version" 9>&-) || got=none; echo "$got"
    done; exec 9>&-; wait"#;

/// The rest, where the system's roots are those of a file.
const WITH_ROOTS: &str = r#"mount --bind "$1" /etc/ssl/certs/ca-certificates.crt && shift && exec "$@""#;

/// A root for these names, which signs for itself.
fn root(folder: &Path, name: &str, names: &str) {
    let at = |kind: &str| folder.join(format!("{name}.{kind}"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-addext", &format!("subjectAltName={names}")])
        .args(["-subj", &format!("/CN=localhost/O={name}")])
        .arg("-keyout")
        .arg(at("key"))
        .arg("-out")
        .arg(at("pem"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// What is behind the gateway, until its standard input is dropped, and its port.
fn production(folder: &Path) -> (Child, String) {
    let mut child = Command::new("python3")
        .arg(folder.join("serve.py"))
        .arg(folder)
        .arg("production")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let said = child.stdout.as_mut().unwrap();
    BufReader::new(said).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

/// Two endpoints at one upstream: an API, and what calls itself a cluster.
fn policy(folder: &Path, port: &str) -> String {
    let ca = std::fs::read_to_string(folder.join("production.pem")).unwrap();
    let upstream = format!(
        "upstream = \"127.0.0.1:{port}\"\n  ca_cert = <<EOT\n{}\nEOT",
        ca.trim_end()
    );
    format!(
        "endpoint \"https\" \"api\" {{\n  hosts = [\"api.test\"]\n  {upstream}\n}}\n\
         endpoint \"kubernetes\" \"prod\" {{\n  server = \"https://cluster.test\"\n  {upstream}\n}}\n\
         credential \"bearer_token\" \"cluster\" {{\n  endpoint = kubernetes.prod\n  secret = env(\"TEST_TOKEN\")\n}}\n\
         profile \"dev\" {{\n  peers = [\"agent\"]\n  endpoints = [https.api, kubernetes.prod]\n  \
         credentials = [bearer_token.cluster]\n  \
         rule \"api\" {{\n    endpoint = https.api\n    verdict = \"allow\"\n  }}\n  \
         rule \"prod\" {{\n    endpoint = kubernetes.prod\n    verdict = \"allow\"\n  }}\n}}\n"
    )
}

/// What a program says of the gateway and of the servers whose root is the system's, the user's, and nobody's.
fn asked(world: &World, folder: &Path, program: &[&str], gateway: &str) -> (Vec<String>, String) {
    let run = world.agent("agent", &["timeout", "90", "sh", "-c", ASK, "sh"]);
    let mut command = Command::new("unshare");
    // Nobody but root may mount without a namespace of users.
    command.arg(if nix::unistd::geteuid().is_root() {
        "-m"
    } else {
        "-Urm"
    });
    command
        .args(["sh", "-c", WITH_ROOTS, "sh"])
        .arg(folder.join("roots.pem"))
        .arg(run.get_program())
        .args(run.get_args())
        .arg(folder)
        .arg(gateway)
        .args(program)
        .current_dir(folder);
    for (name, value) in run.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command
        .env("SSL_CERT_FILE", folder.join("user.pem"))
        .env("NODE_EXTRA_CA_CERTS", folder.join("user.pem"))
        // A JVM leaves a folder of figures of itself behind, unless it is told.
        .env("JAVA_TOOL_OPTIONS", "-XX:-UsePerfData")
        .env(
            "KUBECTL",
            concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/kubectl"),
        )
        .env("HOME", folder)
        .env_remove("KUBECONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().map(str::to_owned).collect();
    (lines, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn real_programs_trust_the_gateway_beside_what_they_trusted() {
    if !can_run() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let folder = files.path();
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::create_dir_all(at("served/r/info")).unwrap();
    for (name, text) in SERVED {
        std::fs::write(at(&format!("served/{name}")), text).unwrap();
    }
    for (name, text) in [
        ("Get.java", JAVA),
        ("get.js", NODE),
        ("get.py", PYTHON),
        ("get.go", GO),
        ("serve.py", SERVE),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    for name in ["system", "user", "nobody"] {
        root(folder, name, "DNS:localhost");
    }
    root(folder, "production", "DNS:api.test,DNS:cluster.test");
    let (mut production, port) = production(folder);
    let world = World::start(&policy(folder, &port));
    let roots = ["/etc/ssl/certs/ca-certificates.crt", &at("system.pem")]
        .map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(at("roots.pem"), roots.concat()).unwrap();
    let go = Command::new("go")
        .args(["build", "-o", &at("get-go"), &at("get.go")])
        .output();
    let programs: [(&str, &[&str], &str); 8] = [
        (
            "curl",
            &["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--fail"],
            "api.test",
        ),
        ("openssl", &["sh", "-c", OPENSSL, "sh"], "api.test"),
        ("python3", &["python3", "get.py"], "api.test"),
        ("node", &["node", "get.js"], "api.test"),
        ("go", &["./get-go"], "api.test"),
        ("java", &["java", "Get.java"], "api.test"),
        ("git", &["sh", "-c", GIT, "sh"], "api.test"),
        ("kubectl", &["sh", "-c", KUBECTL, "sh"], "cluster.test"),
    ];
    for (name, program, gateway) in programs {
        let there = match name {
            "go" => go.as_ref().is_ok_and(|built| built.status.success()),
            "kubectl" => {
                Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/kubectl")).exists()
            }
            _ => Command::new("which").arg(name).output().unwrap().status.success(),
        };
        if !there {
            eprintln!("SKIPPED: no {name} on this machine");
            continue;
        }
        let (codes, errors) = asked(&world, folder, program, gateway);
        assert_eq!(codes, ["200", "200", "200", "none"], "{name}: {errors}");
    }
    drop(production.stdin.take());
    production.wait().unwrap();
}
