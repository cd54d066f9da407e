//! A WireGuard client of others (wireguard-go) as an agent of a whole gateway: what `peers add --public-key` prints is
//! all that it is given.

use std::process::Command;

use crate::fenced::READS;
use crate::http::policy;
use crate::server::{BOTH, Service};
use crate::world::{World, can_run};

/// Brings the device up as wg-quick(8) would, in a network of its own, and asks as its programs do.
const CLIENT: &str = r#"
set -eu
device=$1; cd "$2"
wireguard-go -f "$device" & client=$!
trap 'kill $client; wait $client; rm -f /var/run/wireguard/$device.sock' EXIT
until wg show "$device" >/dev/null 2>&1; do sleep 0.05; done
field() { sed -n "s/^$1 = //p" quick.conf; }
grep -Ev '^(Address|DNS|MTU) ' quick.conf | sed "s|^PrivateKey = .*|PrivateKey = $(cat key)|" > wg.conf
wg setconf "$device" wg.conf
sed -n 's/^# \(-----.*\|[A-Za-z0-9+/=]*\)$/\1/p' quick.conf > ca.pem
field DNS | tr -d ' ' | tr , '\n' | sed 's/^/nameserver /' > resolv.conf
cat > inside <<'EOT'
set -eu
mount --bind resolv.conf /etc/resolv.conf
echo $$ > inside.pid
until ip link show "$1" >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
for address in $(echo "$2" | tr , ' '); do ip addr add "$address" dev "$1"; done
ip link set "$1" mtu "$3" up
ip route add default dev "$1"
ip -6 route add default dev "$1"
for method in GET DELETE; do for family in -4 -6; do
  curl $family -sS --retry 5 --retry-connrefused -m 20 --cacert ca.pem -o /dev/null -w "%{http_code} %{remote_ip}\n" -X $method https://api.test/$method$family
done; done
curl -sS -m 20 --cacert ca.pem https://elsewhere.test/ -o /dev/null 2>/dev/null || echo "no such name $?"
curl -sS -m 20 http://203.0.113.9/ -o /dev/null 2>/dev/null || echo closed
EOT
unshare -n -m sh inside "$device" "$(field Address)" "$(field MTU)" & inside=$!
until [ -s inside.pid ]; do sleep 0.05; done
ip link set "$device" netns "$(cat inside.pid)"
wait $inside
"#;

/// The peer that the policy's profile has beside `agent`.
async fn asked() {
    let service = Service::start(BOTH).await;
    let world = World::start(&policy(&service, READS).replace("[\"agent\"]", "[\"agent\", \"plain\"]"));
    let folder = world.folder.path();
    let made = Command::new("sh")
        .args(["-c", "wg genkey > key && wg pubkey < key"])
        .current_dir(folder)
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap();
    let quick = world.operator(&["peers", "add", "plain", "--public-key", key.trim()]);
    std::fs::write(folder.join("quick.conf"), &quick).unwrap();
    let device = format!("tkp{}", std::process::id());
    let output = Command::new("timeout")
        .args(["90", "bash", "-c", CLIENT, "client", &device])
        .arg(folder)
        .output()
        .unwrap();
    let (said, failed) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let lines: Vec<_> = said.lines().collect();
    let [get4, get6, delete4, delete6, name, address] = lines[..] else {
        panic!("{said}\n{failed}\n{quick}")
    };
    for (line, status, is_v6) in [
        (get4, "200 ", false),
        (get6, "200 ", true),
        (delete4, "403 ", false),
        (delete6, "403 ", true),
    ] {
        let from = line
            .strip_prefix(status)
            .and_then(|rest| rest.parse::<std::net::IpAddr>().ok());
        assert_eq!(from.map(|from| from.is_ipv6()), Some(is_v6), "{said}\n{failed}");
    }
    // curl's 6: the name could not be resolved.
    assert_eq!((name, address), ("no such name 6", "closed"), "{failed}");
    assert_eq!(service.lines().len(), 2, "{:?}", service.lines());
    let of_plain = world
        .audit()
        .iter()
        .filter(|record| record["node"] == "plain")
        .count();
    assert_eq!(world.denials("DELETE").len(), 2);
    assert!(of_plain >= 5, "{:?}", world.audit());
}

#[test]
fn a_wireguard_client_of_others_is_an_agent_too() {
    if !can_run() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: wireguard-go needs root");
        return;
    }
    // A network of its own, for the device's first moments and the gateway's port.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(
        Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap()
            .success()
    );
    tokio::runtime::Runtime::new().unwrap().block_on(asked());
}
