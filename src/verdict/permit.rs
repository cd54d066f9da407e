//! The value that lets bytes leave. *Pure.*
//!
//! A [`Permit`] has private fields and one maker, the gate. The dialer and the injector take one,
//! so that a path round the gate does not compile.

use std::fmt;
use std::sync::Arc;

use super::sha256::Sha256;
use crate::audit::RecordId;
use crate::facts::escape;

/// SHA-256 over the bytes of an action.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of no bytes.
    pub const EMPTY: Digest = Digest([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
        0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(bytes);
        Digest(hash.finish())
    }

    /// The digest of several pieces, each preceded by its length, so that no two ways of cutting
    /// the same bytes agree.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Digest(hash.finish())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape::hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// By whose yes an action passes, where it took people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approved {
    /// The rule that asked.
    pub rule: Arc<str>,
    /// The number of the grant that people had given for the rule beforehand.
    pub grant: Option<i64>,
}

/// Leave to do one action: made by the gate after its audit record is durable.
#[derive(Debug)]
#[must_use = "a permit that is not used means an action that was recorded and not done"]
pub struct Permit {
    record: RecordId,
    endpoint: Arc<str>,
    credential: Option<Arc<str>>,
    digest: Digest,
    approved_by: Option<Approved>,
}

impl Permit {
    /// Only for [`super::gate`]. The audit record named by `record` is durable.
    #[cfg(feature = "daemon")]
    pub(super) fn grant(record: RecordId, action: &super::Action, approved_by: Option<Approved>) -> Self {
        Permit {
            record,
            approved_by,
            endpoint: action.endpoint.clone(),
            credential: action.credential.clone(),
            digest: action.digest,
        }
    }

    /// A permit for the tests of protocol machines, which have no gate.
    #[cfg(test)]
    pub(crate) fn for_test(action: &super::Action) -> Self {
        Permit {
            record: RecordId(0),
            approved_by: None,
            endpoint: action.endpoint.clone(),
            credential: action.credential.clone(),
            digest: action.digest,
        }
    }

    /// The audit record to finish with the outcome.
    pub fn record(&self) -> RecordId {
        self.record
    }

    /// The endpoint that may be dialled.
    pub fn endpoint(&self) -> &Arc<str> {
        &self.endpoint
    }

    /// The credential that may be injected.
    pub fn credential(&self) -> Option<&Arc<str>> {
        self.credential.as_ref()
    }

    /// Whose approvers said yes, where it took people.
    pub fn approved_by(&self) -> Option<&Approved> {
        self.approved_by.as_ref()
    }

    /// Whether `digest` is of the bytes that were judged.
    pub fn covers(&self, digest: &Digest) -> bool {
        self.digest == *digest
    }
}
