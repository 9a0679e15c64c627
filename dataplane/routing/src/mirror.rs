//! Which requests of the stable arm are copied to the canary. Only the choice; the copies are the data plane's.

use std::sync::Arc;

use proxy_api::v1beta1 as api;

use crate::split::{Arm, Split};

/// Bytes of the largest body that is copied: it is held in memory until it is complete.
pub const MAX_BODY: usize = 64 * 1024;

/// What is copied of one route.
#[derive(Clone, Debug)]
pub struct Mirror {
    percent: u8,
    all_methods: bool,
    /// Of its own: copies must not move the positions that the arms are picked by. Outlives changes of the route.
    share: Arc<Split>,
}

/// More than everything was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mirror is {0} %, must be at most 100")]
pub struct Invalid(u32);

impl Mirror {
    /// `None` where nothing is to be copied. `seed` differs between routes and processes.
    ///
    /// # Errors
    /// When the percentage is none.
    pub fn compile(mirror: &api::Mirror, previous: Option<&Self>, seed: u64) -> Result<Option<Self>, Invalid> {
        let percent = u8::try_from(mirror.percent).ok().filter(|percent| *percent <= 100);
        let percent = percent.ok_or(Invalid(mirror.percent))?;
        let share = previous.map_or_else(|| Arc::new(Split::new(seed)), |mirror| Arc::clone(&mirror.share));
        Ok((percent > 0).then_some(Self { percent, all_methods: mirror.all_methods, share }))
    }

    /// Whether this request of the stable arm is copied: exactly the percentage of those that may be. Unless it was asked
    /// otherwise, only requests with a safe method (RFC 9110 §9.2.1) may: a copy of any other is done twice.
    #[must_use]
    pub fn picks(&self, method: &str) -> bool {
        let may = self.all_methods || matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
        may && self.share.pick(self.percent) == Arm::Canary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(percent: u32, all_methods: bool) -> Mirror {
        Mirror::compile(&api::Mirror { percent, all_methods }, None, 1).unwrap().unwrap()
    }

    #[test]
    fn the_percentage_is_exact_and_of_the_requests_that_may_be_copied() {
        let mirror = mk(20, false);
        let copied = (0..1_000).filter(|request| mirror.picks(["GET", "POST"][request % 2])).count();
        assert!(copied.abs_diff(100) <= 2, "{copied} of 500 GETs");
        assert!((0..100).all(|_| mk(100, true).picks("DELETE")));
    }

    #[test]
    fn none_is_none_and_more_than_all_is_refused() {
        let compile = |percent| Mirror::compile(&api::Mirror { percent, all_methods: false }, None, 1);
        assert!(compile(0).unwrap().is_none());
        assert_eq!(compile(101).unwrap_err(), Invalid(101));
    }
}
