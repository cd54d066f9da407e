//! Addresses and ranges: the `ip` and `cidr` functions of Kubernetes and cel-spec. *Pure.*

use std::net::IpAddr;

use ipnet::IpNet;

use super::eval::{Fault, Outcome};
use super::function::Function;
use super::value::Value;

/// An address as Go's `netip` reads it: no zone, and no IPv4 inside IPv6, however it is written: two readers would take
/// it for different addresses.
fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') && text.contains('.') {
        return None;
    }
    let address = text.parse::<IpAddr>().ok()?;
    (address == address.to_canonical()).then_some(address)
}

fn parse_net(text: &str) -> Option<IpNet> {
    let (address, _) = text.split_once('/')?;
    let net: IpNet = text.parse().ok()?;
    // A mapped range has no one meaning.
    (parse_ip(address)? == net.addr()).then_some(net)
}

fn ip(text: &str) -> Result<IpAddr, Fault> {
    parse_ip(text).ok_or_else(|| Fault::error(format!("not an address: {text}")))
}

fn net(text: &str) -> Result<IpNet, Fault> {
    parse_net(text).ok_or_else(|| Fault::error(format!("not a range: {text}")))
}

pub(crate) fn address<'a>(function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    match (function, args) {
        (F::IsIp, [Value::Text(text)]) => Ok(Value::Bool(parse_ip(text).is_some())),
        (F::IsCidr, [Value::Text(text)]) => Ok(Value::Bool(parse_net(text).is_some())),
        (F::IsCanonical, [Value::Text(text)]) => Ok(Value::Bool(ip(text)?.to_string() == **text)),
        (F::Ip, [Value::Text(text)]) => ip(text).map(Value::Ip),
        (F::Cidr, [Value::Text(text)]) => net(text).map(Value::Net),
        (F::ContainsIp, [Value::Net(own), Value::Ip(other)]) => Ok(Value::Bool(own.contains(other))),
        (F::ContainsIp, [Value::Net(own), Value::Text(text)]) => Ok(Value::Bool(own.contains(&ip(text)?))),
        (F::ContainsCidr, [Value::Net(own), Value::Net(other)]) => {
            Ok(Value::Bool(own.trunc().contains(&other.trunc())))
        }
        (F::ContainsCidr, [Value::Net(own), Value::Text(text)]) => {
            Ok(Value::Bool(own.trunc().contains(&net(text)?.trunc())))
        }
        _ => Err(Fault::error(format!("no such overload: {}", function.name()))),
    }
}

/// What one address or range is.
pub(crate) fn part<'a>(function: Function, args: &[Value<'a>]) -> Outcome<'a> {
    use Function as F;
    let value = match (function, args) {
        (F::IpFamily, [Value::Ip(ip)]) => Value::Int(if ip.is_ipv4() { 4 } else { 6 }),
        (F::IsUnspecified, [Value::Ip(ip)]) => Value::Bool(ip.is_unspecified()),
        (F::IsLoopback, [Value::Ip(ip)]) => Value::Bool(ip.is_loopback()),
        (F::IsLinkLocalMulticast, [Value::Ip(ip)]) => Value::Bool(link_local_multicast(ip)),
        (F::IsLinkLocalUnicast, [Value::Ip(ip)]) => Value::Bool(link_local(ip)),
        (F::IsGlobalUnicast, [Value::Ip(ip)]) => Value::Bool(
            !ip.is_unspecified()
                && !ip.is_loopback()
                && !ip.is_multicast()
                && !link_local(ip)
                && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()),
        ),
        (F::IpOf, [Value::Net(net)]) => Value::Ip(net.addr()),
        (F::Masked, [Value::Net(net)]) => Value::Net(net.trunc()),
        (F::PrefixLength, [Value::Net(net)]) => Value::Int(i64::from(net.prefix_len())),
        _ => return Err(Fault::error(format!("no such overload: {}", function.name()))),
    };
    Ok(value)
}

fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}
