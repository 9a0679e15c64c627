//! The numbers that go with a message: those that were judged, and no others.
//!
//! A check leaves what it measured here, the verdict what it counted; [`Evidence::of`] gives each happening its own. What
//! belongs to an earlier weight or an earlier release goes with nothing. Decides nothing.

use rollout::{
    Failure, Happening, State,
    verdict::{Cause, Counted, Decision, Lane, Verdict},
};

use crate::alerts::Fact;

/// What was seen of one weight of one release.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    revision: Option<rollout::Revision>,
    counter: u64,
    checked: Vec<Fact>,
    counted: Vec<Fact>,
}

impl Evidence {
    /// A check measured `facts` at the weight of `state`; they take the place of those of the check before.
    pub fn checked(&mut self, state: &State, facts: Vec<Fact>) {
        self.at(state).checked = facts;
    }

    /// The verdict has counted so far at the weight of `state`.
    pub fn counted(&mut self, state: &State, verdict: &Verdict) {
        self.at(state).counted = counts(verdict);
    }

    /// What goes with `happening`, which ended `before`.
    #[must_use]
    pub fn of(&self, before: &State, happening: &Happening) -> Vec<Fact> {
        if self.revision.is_none() || self.revision != before.canary {
            return Vec::new();
        }
        let fresh = self.counter == before.counter;
        let both = || self.checked.iter().chain(&self.counted).cloned().collect();
        match happening {
            // Some counters after the last weight that was judged.
            Happening::Promoted => both(),
            Happening::RolledBack(Failure::MetricBreached(_))
            | Happening::CheckFailed { .. }
            | Happening::CopiesEnded(_)
                if fresh =>
            {
                self.checked.clone()
            }
            Happening::RolledBack(Failure::Verdict(..)) | Happening::Shown { .. } if fresh => self.counted.clone(),
            Happening::RolledBack(Failure::Aborted) | Happening::Weight(_) | Happening::Held(_) if fresh => both(),
            Happening::RolledBack(_)
            | Happening::CheckFailed { .. }
            | Happening::Shown { .. }
            | Happening::CopiesEnded(_)
            | Happening::Weight(_)
            | Happening::Held(_)
            // Nothing was judged yet, or any more.
            | Happening::Initialized
            | Happening::Started { .. }
            | Happening::Restarted { .. }
            | Happening::CopiesBegan(_)
            | Happening::Everybody
            | Happening::Reverted => Vec::new(),
        }
    }

    fn at(&mut self, state: &State) -> &mut Self {
        if self.revision != state.canary || self.counter != state.counter {
            *self = Self { revision: state.canary.clone(), counter: state.counter, ..Self::default() };
        }
        self
    }
}

/// The counts that the verdict's sentence rests on.
fn counts(verdict: &Verdict) -> Vec<Fact> {
    let facts = &verdict.facts;
    let count = |name: String, Counted { bad, total }: Counted| Fact { name, value: format!("{bad} of {total}") };
    let slow = matches!(verdict.decision, Decision::Rollback(Cause::Evidence(Lane::Latency)));
    let counted = match &facts.slowness {
        Some(slowness) if slow => vec![
            (format!("canary slower than {:.0} ms", slowness.tolerated_ms), slowness.canary),
            (format!("stable slower than {:.0} ms", slowness.stable_ms), slowness.stable),
        ],
        Some(_) | None => vec![
            ("canary requests failed".to_owned(), facts.canary),
            ("stable requests failed".to_owned(), facts.stable),
        ],
    };
    counted.into_iter().filter(|(_, counted)| counted.total > 0).map(|(name, counted)| count(name, counted)).collect()
}

#[cfg(test)]
mod tests {
    use rollout::{Reason, Revision, verdict::Mode};

    use super::*;

    fn mk_state(canary: &str, counter: u64) -> State {
        State { canary: Some(Revision(canary.to_owned())), counter, ..State::default() }
    }

    fn mk_fact(name: &str, value: &str) -> Fact {
        Fact { name: name.to_owned(), value: value.to_owned() }
    }

    fn mk_verdict(decision: Decision) -> Verdict {
        let facts = rollout::verdict::Facts {
            canary: Counted { bad: 49, total: 100 },
            stable: Counted { bad: 1, total: 901 },
            slowness: Some(rollout::verdict::Slowness {
                tolerated_ms: 293.0,
                stable_ms: 268.0,
                canary: Counted { bad: 26, total: 100 },
                stable: Counted { bad: 45, total: 901 },
                ..Default::default()
            }),
            ..Default::default()
        };
        Verdict { decision, mode: Mode::Enforce, facts, lanes: Lane::ALL.map(rollout::verdict::LaneReport::nothing) }
    }

    const ERRORS: Cause = Cause::Evidence(Lane::ErrorRate);

    /// A check of one percent of success, then a verdict, both at the weight of `state`.
    fn mk_evidence(state: &State, decision: Decision) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.checked(state, vec![mk_fact("success rate", "99.90 %")]);
        evidence.counted(state, &mk_verdict(decision));
        evidence
    }

    fn condemned(cause: Cause) -> Happening {
        Happening::RolledBack(Failure::Verdict(cause, String::new()))
    }

    fn breached() -> Happening {
        Happening::RolledBack(Failure::MetricBreached(String::new()))
    }

    #[test]
    fn a_rollback_shows_the_numbers_it_was_decided_on() {
        let state = mk_state("new", 7);
        let evidence = mk_evidence(&state, Decision::Rollback(ERRORS));
        let counted =
            vec![mk_fact("canary requests failed", "49 of 100"), mk_fact("stable requests failed", "1 of 901")];
        assert_eq!(evidence.of(&state, &condemned(ERRORS)), counted);
        assert_eq!(evidence.of(&state, &breached()), vec![mk_fact("success rate", "99.90 %")]);
        let pods = Happening::RolledBack(Failure::ProgressDeadlineExceeded(String::new()));
        assert_eq!(evidence.of(&state, &pods), Vec::new());
        assert_eq!(evidence.of(&state, &Happening::RolledBack(Failure::Aborted)).len(), 3);
    }

    #[test]
    fn slowness_is_shown_where_it_decided() {
        let state = mk_state("new", 7);
        let latency = Cause::Evidence(Lane::Latency);
        let evidence = mk_evidence(&state, Decision::Rollback(latency));
        let slow =
            vec![mk_fact("canary slower than 293 ms", "26 of 100"), mk_fact("stable slower than 268 ms", "45 of 901")];
        assert_eq!(evidence.of(&state, &condemned(latency)), slow);
    }

    #[test]
    fn numbers_of_an_earlier_weight_or_release_go_with_nothing() {
        let evidence = mk_evidence(&mk_state("new", 7), Decision::Rollback(ERRORS));
        for before in [mk_state("new", 8), mk_state("newer", 7), State::default()] {
            for happening in [breached(), condemned(ERRORS), Happening::Weight(25), Happening::Held(Reason::Judging)] {
                assert_eq!(evidence.of(&before, &happening), Vec::new(), "{before:?} {happening:?}");
            }
        }
        let started = Happening::Started { canary: Revision("new".to_owned()) };
        assert_eq!(evidence.of(&mk_state("new", 7), &started), Vec::new());
        // A promotion is told some counters after the last weight.
        assert_eq!(evidence.of(&mk_state("new", 9), &Happening::Promoted).len(), 3);
        assert_eq!(evidence.of(&mk_state("newer", 9), &Happening::Promoted), Vec::new());
    }

    #[test]
    fn a_new_weight_forgets_what_the_one_before_showed() {
        let (old, new) = (mk_state("new", 7), mk_state("new", 8));
        let mut evidence = mk_evidence(&old, Decision::Rollback(ERRORS));
        evidence.checked(&new, vec![mk_fact("success rate", "50.00 %")]);
        assert_eq!(evidence.of(&new, &Happening::Weight(50)), vec![mk_fact("success rate", "50.00 %")]);
        assert_eq!(evidence.of(&old, &Happening::Weight(50)), Vec::new());
    }
}
