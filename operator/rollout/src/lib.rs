//! Every release decision, pure: `step(plan, state, seen, now)` says what is next.
//!
//! A *release* runs from a held template to promoted or rolled back:
//!
//! ```text
//! Initializing ─▶ Initialized ─┐                       ┌─▶ Failed     (weight 0; held until Git changes)
//!                    Waiting ──┼─▶ Progressing ────────┤
//!                  Succeeded ──┘    10 → 25 → 50 → 100 └─▶ Promoting ─▶ Finalising ─▶ Succeeded
//!                     Failed ──┘    (each step judged)      (adopt)      (old pods go)
//! ```
//!
//! Before the first weight there may be a step whose traffic is copies ([`Mirror`]); and all weights may be shares of an
//! [`Audience`], which is lifted in `Promoting`, at the last weight.
//!
//! [`State`] is exactly what the operator persists in `Canary.status`; [`Observation`] is what it read in this pass, each
//! reading explicit about being absent; [`Decision`] is the state to persist next and the world that it wants. No
//! evidence is never a pass. This crate holds no clock, no I/O and no Kubernetes types.

mod decision;
mod observation;
mod plan;
mod reason;
mod state;
mod step;
mod traffic;
pub mod verdict;

pub use decision::{CanaryPods, CopiesEnd, Decision, Desired, Happening, Hold};
pub use observation::{
    CanarySet, Check, Judgement, Native, Observation, Paused, Route, Setup, Target, TargetView, Template, Verbs,
};
pub use plan::Plan;
pub use reason::{Failure, Reason};
pub use state::{Audience, Mirror, Phase, Revision, State};
pub use step::{check_due_in, desired, step};
pub use traffic::{FULL_WEIGHT, canary_size, step_label};
