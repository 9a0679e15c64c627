//! Errors on purpose: delays and aborts, each in percent of a rule's requests.

use std::time::Duration;

use proxy_api::v1beta1 as api;

use super::RuleError;

/// Longest delay: a request that waits holds its connection.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// What strikes, and how often, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    delay: Option<(Duration, u8)>,
    abort: Option<(u16, u8)>,
}

impl Fault {
    /// As asked for.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn compile(fault: &api::Fault) -> Result<Self, RuleError> {
        let percent = |value: u32| u8::try_from(value).ok().filter(|value| *value <= 100).ok_or(RuleError::Fault);
        let delay = Duration::from_millis(fault.delay_ms);
        let status = match fault.abort_status {
            0 => None,
            status => Some(u16::try_from(status).ok().filter(|s| (400..600).contains(s)).ok_or(RuleError::Fault)?),
        };
        if delay > MAX_DELAY {
            return Err(RuleError::Fault);
        }
        let (delay_percent, abort_percent) = (percent(fault.delay_percent)?, percent(fault.abort_percent)?);
        Ok(Self {
            delay: (!delay.is_zero()).then_some((delay, delay_percent)),
            abort: status.map(|status| (status, abort_percent)),
        })
    }

    /// The delay and the status that strike one request, independently of each other.
    #[must_use]
    pub fn strike(self, random: u64) -> (Option<Duration>, Option<u16>) {
        let hit = |random: u64, percent: u8| ((random & 0xffff_ffff) * 100) >> 32 < u64::from(percent);
        let delay = self.delay.filter(|(_, percent)| hit(random, *percent)).map(|(delay, _)| delay);
        let abort = self.abort.filter(|(_, percent)| hit(random >> 32, *percent)).map(|(status, _)| status);
        (delay, abort)
    }
}
