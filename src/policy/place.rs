//! Where a name belongs in the virtual ranges: by its bytes alone, so that two gateways before one tailnet
//! give it the same address whatever each saw first. Which names want one place depends on the ranges.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::model::{HostPattern, Model};
use crate::identity::manifest::HOST;

/// The last place that has an address in both ranges. The first and the last address of the IPv4 range stay free.
pub fn last(v4: IpNet, v6: IpNet) -> u32 {
    let room = |net: IpNet| {
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    };
    let both = room(v4).saturating_sub(2).min(room(v6).saturating_sub(1));
    u32::try_from(both).unwrap_or(u32::MAX)
}

/// Where a name belongs: from 1 to `last`. Gateways of other versions rely on it.
pub fn place(name: &str, last: u32) -> u32 {
    let digest = Sha256::digest(name.as_bytes());
    let start = digest
        .iter()
        .take(8)
        .fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let offset = start.checked_rem(last.into()).unwrap_or_default();
    u32::try_from(offset).unwrap_or_default() + 1
}

/// The names of endpoints, and the gateway's own, of which several want one place.
pub(super) fn contended(model: &Model) -> Vec<Vec<&str>> {
    let last = last(model.gateway.virtual_v4, model.gateway.virtual_v6);
    let claims = model.endpoints.iter().flat_map(|endpoint| &endpoint.claims);
    let names: BTreeSet<&str> = claims
        .filter_map(|claim| match &claim.host {
            HostPattern::Name(name) => Some(name.as_str()),
            _ => None,
        })
        .chain([HOST])
        .collect();
    let mut wanted: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for name in names {
        wanted.entry(place(name, last)).or_default().push(name);
    }
    wanted.into_values().filter(|names| names.len() > 1).collect()
}
