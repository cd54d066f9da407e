//! What `tailkeep run` keeps a command in: both families of addresses are judged, and where there can be no
//! fence there is no command.

use std::process::Command;

use crate::http::policy;
use crate::server::{BOTH, Service};
use crate::world::{World, can_run};

pub const READS: &str = r#"
  rule "reads" {
    endpoint  = https.api
    condition = "http.method == 'GET'"
    verdict   = "allow"
  }"#;

/// Asks over IPv6 alone. Prints each answer's status and the address that it came from.
const OVER_IPV6: &str = "for method in GET DELETE; do
    curl -6 -sS -o /dev/null -w '%{http_code} %{remote_ip}\\n' -X $method https://api.test/$method; done
    curl -sS -m 20 -o /dev/null http://[2001:db8::7]/ 2>/dev/null || echo closed";

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_over_ipv6_is_judged_as_over_ipv4() {
    if !can_run() {
        return;
    }
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, READS));
    let said = world.run(&["sh", "-c", OVER_IPV6]);
    let [allowed, denied, unclaimed] = &said.lines().collect::<Vec<_>>()[..] else {
        panic!("{said}")
    };
    for (line, status) in [(allowed, "200 "), (denied, "403 ")] {
        let address = line.strip_prefix(status).unwrap_or_else(|| panic!("{said}"));
        assert!(address.parse::<std::net::Ipv6Addr>().is_ok(), "{said}");
    }
    assert_eq!(*unclaimed, "closed");
    let reached = service.lines();
    assert!(reached.len() == 1 && reached[0].contains("GET"), "{reached:?}");
    assert_eq!(world.denials("DELETE").len(), 1);
    assert_eq!(world.denials("[2001:db8::7]:80"), ["no_endpoint"]);
}

/// Runs the rest where no user namespace may be made, and says first as whom.
const FORBIDDEN: &str =
    "echo 0 > /proc/sys/user/max_user_namespaces && id -u && exec setpriv --ambient-caps=-all \"$@\"";

#[test]
fn without_user_namespaces_there_is_a_line_and_no_command() {
    if !can_run() {
        return;
    }
    let world = World::start("");
    for user in ["0", "65534"] {
        let began = world.folder.path().join(format!("began-{user}"));
        let run = world.agent("agent", &["touch", began.to_str().unwrap()]);
        let mut command = Command::new("unshare");
        command
            .args(["-U", "--map-user", user, "--map-group", user, "--keep-caps"])
            .args(["sh", "-c", FORBIDDEN, "sh"])
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir(world.folder.path());
        for (name, value) in run.get_envs() {
            command.env(name, value.unwrap());
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{user}\n"),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.starts_with("tailkeep: this machine forbids user namespaces")
                && said.contains("sysctl -w user.max_user_namespaces="),
            "{said}"
        );
        // Root is refused too, so that is no way out.
        assert!(!said.contains("as root"), "{said}");
        assert!(!began.exists(), "the command ran without its fence");
    }
}
