//! What `tailkeep gateway --init` writes: the commented example, or packs of rules to adopt as they stand.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The starting set, which is the repository's own example.
const EXAMPLE: &[(&str, &str)] = &[
    ("gateway.hcl", GATEWAY),
    ("endpoints.hcl", include_str!("../../../policies/endpoints.hcl")),
    ("agent-ci.hcl", include_str!("../../../policies/agent-ci.hcl")),
    ("agent-dev.hcl", include_str!("../../../policies/agent-dev.hcl")),
    ("agent-ops.hcl", include_str!("../../../policies/agent-ops.hcl")),
    // No `*.hcl`: the gateway does not read it, the tailnet's administrator does.
    (
        "tailnet-policy.hujson",
        include_str!("../../../tailscale/policy.hujson"),
    ),
];

const GATEWAY: &str = include_str!("../../../policies/gateway.hcl");
const APPROVERS: &str = include_str!("../../../policies/packs/approvers.hcl");

/// Rules for one service, with actions that they allow and refuse.
struct Pack {
    name: &'static str,
    rules: &'static str,
    fixtures: &'static str,
    /// As a profile's list of credentials has them.
    credentials: &'static [&'static str],
}

macro_rules! pack {
    ($name:literal, $credentials:expr) => {
        Pack {
            name: $name,
            rules: include_str!(concat!("../../../policies/packs/", $name, ".hcl")),
            fixtures: include_str!(concat!("../../../policies/packs/fixtures/", $name, ".json")),
            credentials: $credentials,
        }
    };
}

const PACKS: &[Pack] = &[
    pack!("github", &["bearer_token.github_agent"]),
    pack!("kubernetes", &["bearer_token.cluster_agent"]),
    pack!(
        "payments",
        &[
            "bearer_token.payments_test",
            "{ placeholder = \"PH_payments_live\", credential = bearer_token.payments_live }",
        ]
    ),
    pack!("postgres", &["postgres_credential.database_ro"]),
    pack!("slack", &["bearer_token.slack_bot"]),
];

/// What `--pack` may be.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PACKS.iter().map(|pack| pack.name)
}

/// Writes the example, or the packs that are named, each file anew.
///
/// # Errors
/// One of the files is there already: none is written then.
pub(super) fn write(folder: &Path, wanted: &[String]) -> anyhow::Result<()> {
    let files = match wanted {
        [] => EXAMPLE
            .iter()
            .map(|(name, text)| (folder.join(name), (*text).to_owned()))
            .collect(),
        wanted => packs(folder, wanted),
    };
    for (path, _) in &files {
        anyhow::ensure!(
            !path.exists(),
            "{} is there already; nothing is overwritten",
            path.display()
        );
    }
    for (path, text) in &files {
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    if !wanted.is_empty() {
        let folder = folder.display();
        println!("next: set the hosts and the agents, then: tailkeep test {folder} {folder}/fixtures");
    }
    Ok(())
}

fn packs(folder: &Path, wanted: &[String]) -> Vec<(PathBuf, String)> {
    let chosen: Vec<&Pack> = PACKS
        .iter()
        .filter(|pack| wanted.iter().any(|name| name == pack.name))
        .collect();
    let mut files = vec![
        (folder.join("gateway.hcl"), GATEWAY.to_owned()),
        (folder.join("approvers.hcl"), APPROVERS.to_owned()),
        (folder.join("agents.hcl"), agents(&chosen)),
    ];
    for pack in chosen {
        files.push((folder.join(format!("{}.hcl", pack.name)), pack.rules.to_owned()));
        let fixtures = folder.join("fixtures").join(format!("{}.json", pack.name));
        files.push((fixtures, pack.fixtures.to_owned()));
    }
    files
}

/// A profile that holds the credentials of the packs.
fn agents(packs: &[&Pack]) -> String {
    let mut text =
        "# Which agents there are. One profile for each group of agents: give it the tags, logins or \
                    peers that\n# are meant, and the credentials of the packs that it may use.\n\n\
                    profile \"agents\" {\n  tags        = [\"tag:agent\"]\n  credentials = [\n"
            .to_owned();
    for credential in packs.iter().flat_map(|pack| pack.credentials) {
        text.push_str(&format!("    {credential},\n"));
    }
    text.push_str("  ]\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The repository's folder of packs is what all of them make together.
    #[test]
    fn the_packs_in_the_repository_are_those_that_are_written() {
        let all: Vec<&Pack> = PACKS.iter().collect();
        assert_eq!(agents(&all), include_str!("../../../policies/packs/agents.hcl"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/packs");
        let names: Vec<String> = names().map(str::to_owned).collect();
        let written: Vec<PathBuf> = packs(&folder, &names).into_iter().map(|(path, _)| path).collect();
        for place in [folder.clone(), folder.join("fixtures")] {
            for file in std::fs::read_dir(place).into_iter().flatten().flatten() {
                let path = file.path();
                assert!(path.is_dir() || written.contains(&path), "{}", path.display());
            }
        }
    }
}
