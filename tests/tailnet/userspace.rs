//! A tailscaled without a network device: it dials from ports of this machine.

use serde_json::json;

use crate::world::{World, alone, until};

fn world() -> World {
    let world = World::start();
    world
        .daemon
        .node("100.64.0.2", "ci-1", &["tag:agent-ci"], json!([]));
    world
        .daemon
        .node("100.64.0.3", "dev-1", &[], json!([{ "profiles": ["dev"] }]));
    world.daemon.without_device();
    until("it has no device", || {
        world.dial("100.64.0.2").get().contains(" 200 ")
    });
    world
}

#[test]
fn each_port_is_asked_for_and_nobodys_ports_deny_no_one() {
    alone(|| {
        use tailkeep::ingress::tailnet::miss::MISSES_MAX;
        let world = world();
        for _ in 0..MISSES_MAX + 4 {
            assert_eq!(world.dial("100.64.0.9").get(), "");
        }
        assert!(world.dial("100.64.0.2").get().contains(" 200 "));
        // Many at once, most of them closed as soon as they are open.
        let others: Vec<_> = (0..32).map(|_| world.dial("100.64.0.9")).collect();
        drop(others);
        assert!(world.dial("100.64.0.3").get().contains(" 200 "));
        assert_eq!(world.daemon.asked_at_once(), 1, "tailscaled is held up by each");
    });
}

#[test]
fn a_peers_address_on_this_machine_is_borrowed() {
    alone(|| {
        let world = world();
        let before = world.daemon.asked().len();
        assert_eq!(world.ask("100.64.0.2", "GET"), "");
        assert_eq!(
            world.daemon.asked().len(),
            before,
            "tailscaled would say whose address it is"
        );
    });
}

#[test]
fn an_open_connection_stays_its_peers_when_its_port_is_anothers() {
    alone(|| {
        let world = world();
        let mut open = world.dial("100.64.0.2");
        assert!(open.get().contains(" 200 "));
        world.daemon.dials(open.port(), "100.64.0.3");
        let asked = world.daemon.asked().len();
        world.daemon.tell();
        until("it is asked for", || world.daemon.asked().len() > asked);
        assert!(open.get().contains(" 200 "));
        let audit = world.audit();
        assert!(audit.iter().all(|row| row["node"] == "ci-1"), "{audit:?}");
        world.daemon.leave("100.64.0.2");
        world.daemon.tell();
        assert!(open.is_closed());
    });
}
