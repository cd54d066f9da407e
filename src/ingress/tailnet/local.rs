//! Whether the kernel takes a whole range for this machine's own.
//!
//! The names' virtual addresses are nobody's, and end here by a local route alone. Without it, a
//! tailscaled that has no network device dials them where the machine's other routes lead, and one
//! that has leaves them to a kernel that may forward: to a network that has the same range, past
//! every rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Handle, RouteMessageBuilder};

/// Those of the ranges of which the kernel does not say that they are local; all of them where it
/// does not answer.
pub async fn elsewhere(nets: &[IpNet]) -> Vec<IpNet> {
    if nets.is_empty() {
        return Vec::new();
    }
    let (connection, handle, _) = match rtnetlink::new_connection() {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "the kernel's routes cannot be asked for");
            return nets.to_vec();
        }
    };
    let task = tokio::spawn(connection);
    let mut found = Vec::new();
    for net in nets {
        if !is_local(&handle, *net).await {
            found.push(*net);
        }
    }
    task.abort();
    found
}

/// Its ends and its middle: a single address may be local as one of this machine's own.
async fn is_local(handle: &Handle, net: IpNet) -> bool {
    let middle = match net {
        IpNet::V4(net) => {
            let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
            IpAddr::V4(Ipv4Addr::from_bits(low + (high - low) / 2))
        }
        IpNet::V6(net) => {
            let (low, high) = (u128::from(net.network()), u128::from(net.broadcast()));
            IpAddr::V6(Ipv6Addr::from_bits(low + (high - low) / 2))
        }
    };
    for address in [net.network(), middle, net.broadcast()] {
        if kind(handle, address).await != Some(RouteType::Local) {
            return false;
        }
    }
    true
}

async fn kind(handle: &Handle, address: IpAddr) -> Option<RouteType> {
    let question = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .build(),
    };
    let mut answers = std::pin::pin!(handle.route().get(question).execute());
    match answers.try_next().await {
        Ok(found) => found.map(|route| route.header.kind),
        // No way there at all is none of ours.
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_range_is_local_as_a_whole_or_not() {
        let nets =
            |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let all = nets(&[
            "127.1.0.0/16",
            "127.0.0.1/32",
            "::1/128",
            "198.51.100.0/24",
            "2001:db8::/64",
            "::/64",
        ]);
        assert_eq!(
            elsewhere(&all).await,
            nets(&["198.51.100.0/24", "2001:db8::/64", "::/64"])
        );
    }
}
