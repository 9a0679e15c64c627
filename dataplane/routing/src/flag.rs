//! Response flags: why a request did not end as an endpoint would have it, in the words that Envoy's users know
//! (`%RESPONSE_FLAGS%`). A set costs an integer; several can hold for one request, such as an arm without an endpoint
//! and a client that went away before the other arm had answered.

use std::fmt;

/// One reason. The order is that of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// `UH`: the arm has no endpoint that may be asked.
    NoHealthyUpstream,
    /// `UF`: no connection to any of the endpoints that were tried.
    UpstreamConnectionFailure,
    /// `UC`: the endpoint ended the connection before its answer was complete.
    UpstreamConnectionTermination,
    /// `UPE`: what the endpoint sent is not HTTP.
    UpstreamProtocolError,
    /// `UT`: the request timeout was over.
    UpstreamRequestTimeout,
    /// `DC`: the client ended the connection before its answer was complete.
    DownstreamConnectionTermination,
    /// `DPE`: what the client sent is not a request that may be passed on.
    DownstreamProtocolError,
    /// `SI`: the client sent its body too slowly, or took nothing of its answer.
    StreamIdleTimeout,
    /// `OM`: the proxy has as many connections or streams as it may have.
    OverloadManager,
    /// `UO`: the arm's limits of connections or requests are reached.
    UpstreamOverflow,
    /// `RL`: a rule's rate limit is reached.
    RateLimited,
    /// `FI`: a rule answered with an error on purpose.
    FaultInjected,
}

/// Every flag with its name, in the order of the enum.
pub const FLAGS: [(Flag, &str); 12] = [
    (Flag::NoHealthyUpstream, "UH"),
    (Flag::UpstreamConnectionFailure, "UF"),
    (Flag::UpstreamConnectionTermination, "UC"),
    (Flag::UpstreamProtocolError, "UPE"),
    (Flag::UpstreamRequestTimeout, "UT"),
    (Flag::DownstreamConnectionTermination, "DC"),
    (Flag::DownstreamProtocolError, "DPE"),
    (Flag::StreamIdleTimeout, "SI"),
    (Flag::OverloadManager, "OM"),
    (Flag::UpstreamOverflow, "UO"),
    (Flag::RateLimited, "RL"),
    (Flag::FaultInjected, "FI"),
];

impl Flag {
    /// Its short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        FLAGS[self as usize].1
    }
}

/// The flags of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Adds one.
    pub fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u32;
    }

    /// Whether `flag` is among them.
    #[must_use]
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// None of them.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are set, in the order of [`FLAGS`].
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        FLAGS.iter().map(|(flag, _)| *flag).filter(move |flag| self.contains(*flag))
    }
}

impl From<Option<Flag>> for Flags {
    fn from(flag: Option<Flag>) -> Self {
        let mut flags = Self::default();
        flag.into_iter().for_each(|flag| flags.insert(flag));
        flags
    }
}

impl fmt::Display for Flags {
    /// `UF,DC`; `-` if there is none, as in Envoy's log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (number, flag) in self.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_enum_and_names_are_unique() {
        for (number, (flag, name)) in FLAGS.iter().enumerate() {
            assert_eq!((*flag as usize, flag.name()), (number, *name));
            assert_eq!(FLAGS.iter().filter(|(_, other)| other == name).count(), 1);
        }
    }

    #[test]
    fn every_flag_is_documented_and_nothing_else_is() {
        let text = include_str!("../../../docs/observability.md");
        let table = text.split("## Response flags").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let documented = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let (mut documented, mut ours) = (Vec::from_iter(documented), Vec::from(FLAGS.map(|(_, name)| name)));
        documented.sort_unstable();
        ours.sort_unstable();
        assert_eq!(documented, ours);
    }

    #[test]
    fn a_set_reads_as_in_envoys_log() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.insert(Flag::DownstreamConnectionTermination);
        flags.insert(Flag::UpstreamConnectionFailure);
        flags.insert(Flag::UpstreamConnectionFailure);
        assert_eq!(flags.to_string(), "UF,DC");
        assert!(!flags.contains(Flag::NoHealthyUpstream));
    }
}
