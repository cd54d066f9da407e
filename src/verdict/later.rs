//! The form of asking for clients that cannot wait: a ticket instead of a held request. *Pure.*

/// An agent does not wait for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// What it was given when it asked first.
    pub token: Option<String>,
}

/// What it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub approval: i64,
    /// With which the same action takes its answer, once; `None` where the agent has it already.
    pub token: Option<String>,
    /// Unix time, microseconds.
    pub expires_us: i64,
}
