//! What is pure of HTTP: checks of a head, hop-by-hop headers, digests, denials. *Pure.*
//!
//! hyper parses (and settles `Transfer-Encoding` against `Content-Length`, bad chunks and folded
//! lines); `proxy/` drives it. This module refuses what hyper lets through and an upstream could
//! read differently. `facts::http` reads the facts of a head that passed here.
//!
//! Invariants: a head that does not name the claimed endpoint goes nowhere; the digest covers the
//! request line, every end-to-end header in order, the held body and its trailers.

pub mod claim;
pub mod denial;
pub mod describe;
pub mod head;
pub mod hop;
pub mod later;
pub mod rendered;

use http::StatusCode;

pub use crate::facts::http::Malformed;
pub use claim::{is_claim, strip_claims};
pub(crate) use denial::answer;
pub use denial::{deny, malformed};
pub use describe::{detail, digest, is_shown_whole, summary};
pub use head::{Authority, check_head, count_once, is_underscored, may_not_trail, name_once};
pub use hop::{ConnectProtocol, Upgrade, remove_if, strip_hop_by_hop, upgrade};

/// 421 for a request that names another host than its connection (RFC 9110 section 15.5.20), 400
/// for every other that is refused before any rule.
pub fn status(error: Malformed) -> StatusCode {
    match error {
        Malformed::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests;
