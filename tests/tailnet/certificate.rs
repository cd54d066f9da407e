//! The admin page on a real tailnet with the certificate that tailscaled had issued, by an authority that checks
//! what the control server was told.

use serde_json::Value;

use crate::lab::{Gateway, Tailscaled, World, until};
use crate::real::CI_READS;
use crate::stories::OPEN;

/// The page's name.
const NAME: &str = "gw.lab.ts.net";

/// What curl was answered: its exit status, the body, and the chain that it was shown, PEM.
struct Answer {
    status: i32,
    body: String,
    chain: String,
}

struct Scene {
    gateway: Gateway,
    node: Tailscaled,
    world: World,
}

fn scene(mut world: World, certificates: &str) -> Scene {
    world.control.certificates(certificates);
    std::fs::write(world.folder().join("authority.pem"), world.control.authority()).unwrap();
    let node = world.gateway_node("gw");
    let policy = format!(
        r#"
gateway {{
  state_dir        = "FOLDER/state"
  dashboard_listen = "127.0.0.1:18080"
  tailscale {{
    socket    = "{socket}"
    operators = ["ann@example.com"]
  }}
}}
endpoint "http" "api" {{
  hosts    = ["api.test:80"]
  upstream = "127.0.0.2:9000"
}}
{CI_READS}"#,
        socket = node.socket.display()
    );
    let folder = world.folder().join("gateway");
    let gateway = Gateway::start(&node.machine, &folder, &policy, |_| {});
    gateway.until_says("the admin page is served on the tailnet");
    Scene { gateway, node, world }
}

impl Scene {
    /// A node whose programs reach the page: by its device, or by a socket of its tailscaled's.
    fn agent(&mut self, name: &str, tags: &[&str]) -> Tailscaled {
        let agent = self.world.agent(name, tags);
        agent.until_routes();
        if !agent.has_device() {
            agent.door(&self.door(name), &self.node.address(false), 443);
        }
        agent
    }

    fn door(&self, name: &str) -> std::path::PathBuf {
        self.world.folder().join(format!("{name}-443.sock"))
    }

    fn own_ca(&self) -> std::path::PathBuf {
        self.world.folder().join("gateway/state/ca.pem")
    }

    fn authority(&self) -> std::path::PathBuf {
        self.world.folder().join("authority.pem")
    }

    fn page(&self, from: &Tailscaled, trusts: &std::path::Path) -> Answer {
        let mut command = from.machine.command("curl");
        command.args(["-sS", "-m", "20", "-w", "%{stderr}%{certs}", "--cacert"]);
        command.arg(trusts);
        match from.has_device() {
            true => command.args(["--resolve", &format!("{}:443:{}", NAME, self.node.address(false))]),
            false => command.arg("--unix-socket").arg(self.door(&from.name)),
        };
        let output = command.arg(format!("https://{}/", NAME)).output().unwrap();
        Answer {
            status: output.status.code().unwrap(),
            body: String::from_utf8_lossy(&output.stdout).into_owned(),
            chain: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn is_served(&self, to: &Tailscaled, trusts: &std::path::Path) -> bool {
        let answer = self.page(to, trusts);
        answer.status == 0 && answer.body.contains("<title>Tailkeep")
    }

    /// What operators are told of the page's certificate.
    fn told(&self) -> String {
        let token =
            std::fs::read_to_string(self.world.folder().join("gateway/state/operator.token")).unwrap();
        let bearer = format!("Authorization: Bearer {}", token.trim());
        let asked = ["-sS", "-H", &bearer, "http://127.0.0.1:18080/v1/health"];
        let health: Value = serde_json::from_str(&self.node.machine.says("curl", &asked)).unwrap();
        health["tailnet"]["certificate"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

fn operators_get_the_page_by_a_public_name(world: World) {
    let mut scene = scene(world, "on");
    let ann = scene.agent("laptop", &[]);
    let ci = scene.agent("ci-1", &["tag:agent-ci"]);
    let nobody = scene.agent("other", &["tag:nothing"]);
    until("it is issued", || scene.is_served(&ann, &scene.authority()));
    assert!(
        !scene.is_served(&ann, &scene.own_ca()),
        "the gateway signed it itself"
    );
    assert!(
        scene.told().starts_with("tailscaled's, until "),
        "{}",
        scene.told()
    );
    for agent in [&ci, &nobody] {
        let answer = scene.page(agent, &scene.authority());
        assert!(
            answer.status != 0 && answer.body.is_empty(),
            "{}: {}",
            agent.name,
            answer.body
        );
        assert!(
            !answer.chain.contains("BEGIN CERTIFICATE"),
            "{} saw the certificate",
            agent.name
        );
    }
}

#[test]
fn operators_get_the_page_by_a_public_name_without_a_device() {
    if let Some(world) = World::rootless(OPEN) {
        operators_get_the_page_by_a_public_name(world);
    }
}

#[test]
fn operators_get_the_page_by_a_public_name_with_a_device() {
    if let Some(world) = World::root(OPEN) {
        operators_get_the_page_by_a_public_name(world);
    }
}

#[test]
fn what_the_authority_refuses_is_said_and_the_page_goes_on() {
    let Some(world) = World::rootless(OPEN) else {
        return;
    };
    let mut scene = scene(world, "unpublished");
    let ann = scene.agent("laptop", &[]);
    scene
        .gateway
        .until_says("tailscaled has no certificate for the admin page");
    assert!(scene.is_served(&ann, &scene.own_ca()));
    let told = scene.told();
    assert!(
        told.starts_with("signed by the gateway's own CA: ") && told.contains("acme"),
        "{told}"
    );
    // It comes about once it can; a node that comes back is asked at once.
    scene.world.control.certificates("on");
    scene.node.restart();
    until("it is issued", || scene.is_served(&ann, &scene.authority()));
    assert!(
        scene.told().starts_with("tailscaled's, until "),
        "{}",
        scene.told()
    );
}

#[test]
fn a_renewed_certificate_is_served_and_one_that_cannot_be_renewed_stays() {
    let Some(world) = World::rootless(OPEN) else {
        return;
    };
    let mut scene = scene(world, "on");
    let ann = scene.agent("laptop", &[]);
    until("it is issued", || scene.is_served(&ann, &scene.authority()));
    let first = scene.page(&ann, &scene.authority()).chain;
    // Its time has come, and the authority refuses: the old one is good for longer.
    scene.world.control.certificates("unpublished");
    scene.world.control.wants_renewed(&first);
    scene.node.restart();
    until("the renewal fails", || {
        scene.node.log().contains("async renewal failed")
    });
    until("the old one is served again", || {
        scene.is_served(&ann, &scene.authority())
    });
    assert_eq!(scene.page(&ann, &scene.authority()).chain, first);
    scene.world.control.certificates("on");
    until("another is served", || {
        // It begins with a question, and the next one has the new one.
        scene.node.restart();
        scene.gateway.until_says("tailscaled is heard");
        let answer = scene.page(&ann, &scene.authority());
        answer.status == 0 && answer.chain != first
    });
}
