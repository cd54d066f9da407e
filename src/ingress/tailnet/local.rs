//! Whether the kernel takes a whole range for this machine's own.
//!
//! The names' virtual addresses are nobody's, and end here by a local route alone. Without it, a
//! tailscaled that has no network device dials them where the machine's other routes lead, and one
//! that has leaves them to a kernel that may forward: to a network that has the same range, past
//! every rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::guard::Unguarded;

/// Those of the ranges of which the kernel does not say that they are local, and why; all of them
/// where it does not answer.
pub async fn elsewhere(nets: &[IpNet]) -> Vec<(IpNet, Unguarded)> {
    if nets.is_empty() {
        return Vec::new();
    }
    let (connection, handle, _) = match rtnetlink::new_connection() {
        Ok(opened) => opened,
        Err(error) => {
            let unknown = |net: &IpNet| (*net, Unguarded::Unknown(*net, error.to_string()));
            return nets.iter().map(unknown).collect();
        }
    };
    let task = tokio::spawn(connection);
    let mut found = Vec::new();
    for net in nets {
        if let Err(why) = is_local(&handle, *net).await {
            found.push((*net, why));
        }
    }
    task.abort();
    found
}

/// Its ends and its middle: a single address may be local as one of this machine's own.
async fn is_local(handle: &Handle, net: IpNet) -> Result<(), Unguarded> {
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
        judge(net, ask(handle, address).await)?;
    }
    Ok(())
}

async fn ask(handle: &Handle, address: IpAddr) -> Result<Option<RouteMessage>, rtnetlink::Error> {
    let question = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, 32)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, 128)
            .build(),
    };
    std::pin::pin!(handle.route().get(question).execute())
        .try_next()
        .await
}

/// What an answer says of a range. No way there at all is none of ours; that nobody may ask is
/// mended elsewhere than in the routes.
fn judge(net: IpNet, answer: Result<Option<RouteMessage>, rtnetlink::Error>) -> Result<(), Unguarded> {
    match answer {
        Ok(Some(route)) if route.header.kind == RouteType::Local => Ok(()),
        Ok(_) => Err(Unguarded::NotLocal(net)),
        Err(rtnetlink::Error::NetlinkError(told)) => match Errno::from_raw(-told.raw_code()) {
            Errno::EPERM | Errno::EACCES => Err(Unguarded::Unknown(net, told.to_string())),
            _ => Err(Unguarded::NotLocal(net)),
        },
        Err(error) => Err(Unguarded::Unknown(net, error.to_string())),
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
        let wrong = nets(&["198.51.100.0/24", "2001:db8::/64", "::/64"]);
        let found = wrong.into_iter().map(|net| (net, Unguarded::NotLocal(net)));
        assert_eq!(elsewhere(&all).await, found.collect::<Vec<_>>());
    }

    /// Under seccomp or SELinux: the route may well be there, and to add it again helps nobody.
    #[test]
    fn who_may_not_ask_is_told_so() {
        let net: IpNet = "10.78.0.0/16".parse().unwrap();
        let answer = |code: Errno| {
            let mut told = rtnetlink::packet_core::ErrorMessage::default();
            told.code = std::num::NonZeroI32::new(-(code as i32));
            judge(net, Err(rtnetlink::Error::NetlinkError(told)))
        };
        for refused in [Errno::EPERM, Errno::EACCES] {
            let why = answer(refused).unwrap_err();
            assert!(matches!(&why, Unguarded::Unknown(of, _) if *of == net));
            assert!(why.to_string().contains("AF_NETLINK") && !why.to_string().contains("ip route add"));
        }
        assert_eq!(answer(Errno::ENETUNREACH), Err(Unguarded::NotLocal(net)));
        let gone = judge(net, Err(rtnetlink::Error::RequestFailed));
        assert!(matches!(gone, Err(Unguarded::Unknown(..))));
        assert_eq!(judge(net, Ok(None)), Err(Unguarded::NotLocal(net)));
    }
}
