//! README's way onto a tailnet, step by step: `--init`, the block of `gateway.hcl` without its `#`, `validate`, a login
//! by a person, the policy file of the tailnet that was written beside, and an agent that asks what it reaches.

use std::path::Path;
use std::process::Command;

use crate::lab::{Gateway, World, program, until};

/// A tailnet as it is made: whoever is a member may give the tags that there are.
const NEW: &str = r#"{"tagOwners": {"tag:gateway": ["autogroup:admin"], "tag:agent-ci": ["autogroup:admin"]}, "grants": []}"#;

fn tailkeep(arguments: &[&str], path: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
    let output = command.args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The written gateway.hcl with its `tailscale` block, and what is of this machine alone.
fn with_tailscale(policies: &Path, url: &str) -> String {
    let text = std::fs::read_to_string(policies.join("gateway.hcl")).unwrap();
    let at = text.find("  # tailscale {").unwrap();
    let (before, rest) = text.split_at(at);
    let end = rest.find("# }\n").unwrap() + 4;
    let block: String = rest[..end]
        .lines()
        .map(|line| line.replacen("# ", "", 1) + "\n")
        .collect();
    let block = block.replace("hostname", &format!("control_url = \"{url}\"\n    hostname"));
    format!("{before}{block}{}", &rest[end..]).replace("\".tailkeep\"", "\"FOLDER/state\"")
}

#[test]
fn a_newcomer_joins_the_gateway_to_a_tailnet_as_readme_says() {
    let Some(mut world) = World::rootless(NEW) else {
        return;
    };
    let machine = world.machine("gw");
    machine.virtual_ranges();
    let (folder, policies) = (world.folder().join("gateway"), world.folder().join("policies"));
    tailkeep(&["gateway", "--init"], &policies);
    let written = with_tailscale(&policies, &world.control.url);
    std::fs::remove_file(policies.join("gateway.hcl")).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&policies)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hcl"))
        .collect();
    files.sort();
    let rest = files.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let policy = std::iter::once(written)
        .chain(rest)
        .collect::<Vec<_>>()
        .join("\n");
    let path = program("tailscaled").parent().unwrap().display().to_string();
    let gateway = Gateway::start(&machine, &folder, &policy, |command| {
        command.env("PATH", format!("{path}:/usr/bin:/bin"));
    });
    assert!(tailkeep(&["validate"], &folder.join("policy.hcl")).contains("valid: "));

    // The link, and what the policy file lacks, are in the same place.
    let tailnet = || {
        let output = gateway.operator(&["tailnet"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text)
    };
    until("a person is asked for", || tailnet().1.contains("log in at"));
    let (_, told) = tailnet();
    let link = told
        .lines()
        .find_map(|line| line.strip_prefix("log in at"))
        .unwrap()
        .trim();
    let said = machine.says("curl", &["-sS", &format!("{link}?login=ann@example.com")]);
    assert!(said.contains("logged in"), "{said}");
    until("the routes wait", || tailnet().1.contains("waits for approval"));
    let (is_well, told) = tailnet();
    assert!(!is_well && told.contains("autoApprovers"), "{told}");

    // The written policy file of the tailnet has all of it, and agents are told what they reach.
    world
        .control
        .policy(&std::fs::read_to_string(policies.join("tailnet-policy.hujson")).unwrap());
    until("all is approved", || tailnet().0);
    let ci = world.agent("ci-1", &["tag:agent-ci"]);
    ci.until_routes();
    let told = ci.http(crate::lab::GATEWAY_ITSELF[0], 80, "tailkeep.internal", "GET");
    assert!(
        told.contains(" 200 ") && told.contains("\"ci\"") && told.contains("api.github.com"),
        "{told}"
    );
}
