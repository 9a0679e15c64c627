//! Why a route is not taken.

use crate::retry::BadCondition;
use crate::rules::RuleError;
use crate::{affinity, balance, mirror, outlier};

/// Why a route cannot be taken into force; the one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No uid.
    #[error("route has no uid")]
    NoUid,
    /// Weight above 100.
    #[error("weight is {0}, must be at most 100")]
    Weight(u32),
    /// Port outside 1..=65535.
    #[error("port is {0}, must lie between 1 and 65535")]
    Port(u32),
    /// Address that is not an IP address.
    #[error("endpoint address {0:?} is not an IP address")]
    Address(String),
    /// Protocol that this proxy does not know.
    #[error("protocol {0} is not known to this proxy")]
    Protocol(i32),
    /// Session affinity that cannot be carried out.
    #[error(transparent)]
    Affinity(#[from] affinity::Invalid),
    /// Retry conditions that this proxy does not know.
    #[error(transparent)]
    Condition(#[from] BadCondition),
    /// A rule that has no meaning.
    #[error("rules are not valid")]
    Rules(#[from] RuleError),
    /// Mirror that cannot be carried out.
    #[error(transparent)]
    Mirror(#[from] mirror::Invalid),
    /// Outlier detection that cannot be carried out.
    #[error(transparent)]
    Outlier(#[from] outlier::Invalid),
    /// Load balancer that cannot be carried out.
    #[error(transparent)]
    Balance(#[from] balance::Invalid),
    /// Another route has the port.
    #[error("port {port} belongs to {holder}")]
    Taken {
        /// The port.
        port: u16,
        /// `<namespace>/<canary>` that has it.
        holder: String,
    },
}
