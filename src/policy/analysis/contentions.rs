//! Names that want one virtual address. *Pure.*

use super::super::diagnostic::Diagnostic;
use super::super::load::Kind;
use super::super::place::contended;
use super::super::{Claim, HostPattern, Model};
use super::{Place, listed};

/// Names whose virtual addresses two gateways of a tailnet need not agree on.
pub(super) fn notes(model: &Model, place: Place<'_>) -> Vec<Diagnostic> {
    let all = model.gateway.tailscale.as_ref().map(|_| contended(model));
    let note = |names: &Vec<&str>| {
        let claims = |name| move |claim: &Claim| claim.host == HostPattern::Name(String::from(name));
        let endpoint = model.endpoints.iter().find(|endpoint| {
            let mut names = names.iter().rev();
            names.any(|name| endpoint.claims.iter().any(claims(*name)))
        })?;
        let message = format!(
            "{} want one virtual address, which one of them has",
            listed(names)
        );
        let help = "a second gateway of the tailnet gives the same ones if both began with all of these names; else let it begin \
                    with a copy of the first one's state_dir/names, or give both a larger gateway { virtual_cidr }";
        Some(Diagnostic::new(place(Kind::Endpoint, &endpoint.key), message).help(help))
    };
    all.iter().flatten().filter_map(note).collect()
}
