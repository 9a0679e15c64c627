//! Condition types and reasons, as constants. When they are set is the operator's affair.

/// The last release ended well, or none has begun yet; the route is in force. kstatus reads it.
pub const READY: &str = "Ready";
/// A release is under way, or the Canary is being set up. kstatus reads it.
pub const RECONCILING: &str = "Reconciling";
/// A person has to act: the spec cannot be carried out, or a release failed. kstatus reads it.
pub const STALLED: &str = "Stalled";
/// Flagger's condition: True Succeeded or Initialized, False Failed, Unknown in between.
pub const PROMOTED: &str = "Promoted";
