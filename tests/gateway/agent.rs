//! The agent's machine: what `tailkeep run` keeps of its command, and what it does without root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::http::policy;
use crate::server::{BOTH, Service};
use crate::world::{TOKEN, World, can_run, until};

const POLICY: &str = "endpoint \"https\" \"api\" { hosts = [\"api.test\"] }\n\
    credential \"bearer_token\" \"pat\" {\n  endpoint = https.api\n  secret = env(\"TEST_TOKEN\")\n}\n\
    profile \"dev\" {\n  peers = [\"agent\"]\n  credentials = [bearer_token.pat]\n}\n";

#[test]
fn a_command_ends_as_it_would_without_us() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    for (args, want) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let status = world.agent("agent", args).output().unwrap().status;
        assert_eq!(status.code(), Some(want), "{args:?}");
    }
    let many = world.run(&["head", "-c", "3000000", "/dev/zero"]);
    assert_eq!(many.len(), 3_000_000);
    // Whoever is killed cannot clear up: there is nothing lying about while it runs.
    let empty = world.folder.path().join("temporary");
    std::fs::create_dir(&empty).unwrap();
    let listed = world
        .agent("agent", &["ls", "-A", empty.to_str().unwrap()])
        .env("TMPDIR", &empty)
        .output()
        .unwrap();
    assert!(listed.status.success() && listed.stdout.is_empty(), "{listed:?}");
}

#[test]
fn roots_are_added_to_and_no_secret_is_there() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let own = world.folder.path().join("company.pem");
    std::fs::write(&own, "the company's own roots\n").unwrap();
    let output = world
        .agent(
            "agent",
            &["sh", "-c", "env; cat /proc/self/environ \"$SSL_CERT_FILE\""],
        )
        .env("REQUESTS_CA_BUNDLE", &own)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("the company's own roots"),
        "REQUESTS_CA_BUNDLE was lost"
    );
    assert!(
        said.matches("BEGIN CERTIFICATE").count() > 1,
        "the system's roots were lost"
    );
    assert!(said.contains("{{pat}}") && !said.contains(TOKEN));
}

/// Runs as nobody, with a TUN device that anyone may open, in mounts of its own.
const AS_NOBODY: &str = "mount -t tmpfs none /mnt && mknod /mnt/tun c 10 200 && chmod \"$MODE\" /mnt/tun \
    && mount --bind /mnt/tun /dev/net/tun && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

#[test]
fn no_root_is_needed_and_what_is_missing_is_said_in_a_line() {
    if !can_run() || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: not root, so every other test here shows it already");
        return;
    }
    let world = World::start(POLICY);
    let home = world.folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    std::fs::set_permissions(world.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where this was built, nobody may look.
    let program = world.folder.path().join("tailkeep");
    std::fs::copy(env!("CARGO_BIN_EXE_tailkeep"), &program).unwrap();
    let nobody = |mode: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", AS_NOBODY, "sh"])
            .arg(&program)
            .args(args)
            .env("TAILKEEP_HOME", home.join("tailkeep"))
            .env("HOME", &home)
            .env("MODE", mode)
            .current_dir("/");
        command.output().unwrap()
    };
    let added = world.operator(&["peers", "add", "nobody", "--format", "json"]);
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let joined = nobody("666", &["join", added["url"].as_str().unwrap()]);
    assert!(joined.status.success(), "{joined:?}");
    let ran = nobody("666", &["run", "--", "sh", "-c", "id -u; cat /etc/resolv.conf"]);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(
        said.starts_with("65534\n") && said.contains("nameserver 10.91.0.1"),
        "{said}"
    );
    let refused = nobody("600", &["run", "--", "true"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{said}");
    assert!(said.contains("chmod 666 /dev/net/tun"), "{said}");
}

fn keys(world: &World) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&world.operator(&["peers", "--format", "json"])).unwrap();
    listed["peers"].as_array().unwrap().clone()
}

#[test]
fn runs_at_once_have_a_key_each_and_give_it_back() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let own = [
        "sh",
        "-c",
        "ip -o -4 addr show | grep -o '10\\.91[0-9.]*'; getent hosts api.test; cat",
    ];
    let begin = || {
        let mut child = world
            .agent("agent", &own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next().unwrap().unwrap();
        assert!(lines.next().unwrap().unwrap().contains("api.test"));
        (child, address)
    };
    let (mut one, first) = begin();
    let (mut two, second) = begin();
    let (mut three, third) = begin();
    assert!(
        first != second && second != third && first != third,
        "{first} {second} {third}"
    );
    assert_eq!(keys(&world).len(), 3);
    assert!(keys(&world).iter().all(|key| key["peer"] == "agent"));
    // The one that has the enrolment's own key may end first.
    for child in [&mut one, &mut two] {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
    until("one key has gone", || keys(&world).len() == 2);
    drop(three.stdin.take());
    assert!(three.wait().unwrap().success());
    until("the keys have gone", || keys(&world).len() == 1);
    until("the handshake is noted", || keys(&world)[0]["seen_us"].is_i64());
}

#[test]
fn what_a_command_leaves_behind_has_no_network() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let said = world.folder.path().join("said");
    let left = format!(
        "(while getent hosts api.test; do sleep 0.05; done; echo gone > {}) > /dev/null 2>&1 &",
        said.display()
    );
    assert!(
        world
            .agent("agent", &["sh", "-c", &left])
            .status()
            .unwrap()
            .success()
    );
    until("the process that was left has lost its names", || said.exists());
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let temporary = world.folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let left = || std::fs::read_dir(&temporary).unwrap().count();
    let shown = ["sh", "-c", "echo up; read go; cat /etc/resolv.conf; read go"];
    let mut child = world
        .agent("agent", &shown)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    assert_eq!(left(), 0);
    // What was mounted from there is still there.
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "nameserver 10.91.0.1");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left(), 0);
}

#[test]
fn a_changed_policy_reaches_the_agent_and_leaving_reaches_the_gateway() {
    if !can_run() {
        return;
    }
    let world = World::start(POLICY);
    let env = || world.operator(&["env", "--format", "json"]);
    assert!(!env().contains("PH_other_one"));
    let more = "credential \"bearer_token\" \"other\" {\n  endpoint = https.api\n  secret = env(\"TEST_TOKEN\")\n}\n";
    let held = POLICY.replace(
        "[bearer_token.pat]",
        "[bearer_token.pat, { placeholder = \"PH_other_one\", credential = bearer_token.other }]",
    );
    world.rewrite(&format!("{more}{held}"), "a new policy is in force");
    assert!(env().contains("PH_other_one"), "{}", env());
    assert!(world.run(&["sh", "-c", "echo $OTHER"]).contains("PH_other_one"));

    assert!(
        world
            .operator(&["leave"])
            .contains("has removed this machine's key")
    );
    assert!(keys(&world).is_empty());
    let again = world.agent("agent", &["true"]).output().unwrap();
    assert_eq!(again.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not enrolled"));

    // The operator removed it: nothing that it signs is good any more.
    world.enrol("agent");
    world.operator(&["peers", "remove", "agent"]);
    let left = world.operator(&["leave"]);
    assert!(
        left.contains("not told") && left.contains("not enrolled"),
        "{left}"
    );

    world.enrol("agent");
    world.kill();
    assert!(
        world
            .operator(&["leave"])
            .contains("`tailkeep peers remove agent`")
    );
}

/// A program of each kind that gets a URL. Prints the status, or why not.
const JAVA: &str = "public class Get { public static void main(String[] a) throws Exception {
  var c = (java.net.HttpURLConnection) new java.net.URL(a[0]).openConnection();
  System.out.println(c.getResponseCode()); } }";
const NODE: &str = "require('https').get(process.argv[1], r => { console.log(r.statusCode); r.resume(); })\
    .on('error', e => { console.error(e.message); process.exit(1); })";
const PYTHON: &str = "import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as e: print(e.code)";
const GO: &str = "package main
import (\"fmt\"; \"net/http\"; \"os\")
func main() { r, err := http.Get(os.Args[1]); if err != nil { fmt.Println(err); os.Exit(1) }; fmt.Println(r.StatusCode) }";

/// A server of the command's own network, whose root is one that the user brought.
const OWN_SERVER: &str = r#"python3 "$1/serve.py" "$1" & server=$!; shift
    until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8443))' 2>/dev/null; do sleep 0.05; done
    "$@" https://api.test/v1/x; "$@" https://localhost:8443/; kill $server"#;
const SERVE: &str = "import http.server, os, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + '/own.pem', sys.argv[1] + '/own.key')
os.chdir('/'); sys.stderr = sys.stdout = open('/dev/null', 'w'); os.dup2(sys.stderr.fileno(), 1); os.dup2(sys.stderr.fileno(), 2)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 8443), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()";

#[tokio::test(flavor = "multi_thread")]
async fn real_programs_trust_the_gateway_beside_what_they_trusted() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let rule = "  rule \"all\" {\n    endpoint = https.api\n    verdict = \"allow\"\n  }";
    let world = World::start(&policy(&service, rule));
    let folder = world.folder.path();
    let at = |name: &str| folder.join(name).display().to_string();
    for (name, text) in [
        ("Get.java", JAVA),
        ("get.js", NODE),
        ("get.py", PYTHON),
        ("get.go", GO),
        ("serve.py", SERVE),
    ] {
        std::fs::write(at(name), text).unwrap();
    }
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-keyout",
            &at("own.key"),
            "-out",
            &at("own.pem"),
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost", "-days", "2"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let go = Command::new("go")
        .args(["build", "-o", &at("get-go"), &at("get.go")])
        .env("GOFLAGS", "-mod=mod")
        .output();
    let kubectl = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kubernetes/kubectl");
    let programs: [(&str, Vec<&str>); 8] = [
        ("curl", vec!["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\n"]),
        ("python3", vec!["python3", "get.py"]),
        ("node", vec!["node", "-e", NODE]),
        ("java", vec!["java", "Get.java"]),
        ("go", vec!["./get-go"]),
        ("openssl", vec!["sh", "-c", "h=${0#https://}; h=${h%%/*}; case $h in *:*) ;; *) h=$h:443 ;; esac
            openssl s_client -verify_return_error -connect $h -servername ${h%%:*} </dev/null >/dev/null 2>&1 && echo 200"]),
        // What is no repository is said so after the handshake.
        ("git", vec!["sh", "-c", "git ls-remote $0/r 2>&1 | grep -qi certificate || echo 200"]),
        ("kubectl", vec!["sh", "-c", "K get --raw /version --server ${0%/v1/x} 2>&1 | grep -qi 'x509\\|certificate' || echo 200"]),
    ];
    for (name, args) in programs {
        let there = match name {
            "go" => go.as_ref().is_ok_and(|built| built.status.success()),
            "kubectl" => std::path::Path::new(kubectl).exists(),
            _ => Command::new("which")
                .arg(name)
                .output()
                .is_ok_and(|found| found.status.success()),
        };
        if !there {
            eprintln!("SKIPPED: no {name} on this machine");
            continue;
        }
        let args: Vec<String> = args
            .iter()
            .map(|arg| arg.replace("K get", &format!("{kubectl} get")))
            .collect();
        let mut command = world.agent("agent", &["timeout", "40", "sh", "-c", OWN_SERVER, "sh"]);
        let output = command
            .arg(folder)
            .args(args)
            .env("SSL_CERT_FILE", at("own.pem"))
            .env("NODE_EXTRA_CA_CERTS", at("own.pem"))
            // A JVM leaves a folder of figures of itself behind, unless it is told.
            .env("JAVA_TOOL_OPTIONS", "-XX:-UsePerfData")
            .env("HOME", folder)
            .output()
            .unwrap();
        let (said, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let codes: Vec<&str> = said.lines().collect();
        assert_eq!(codes, ["200", "200"], "{name}: {errors}");
    }
}
