//! Every per-request decision of the proxy, and which configuration is in force. Pure: no sockets, no clock, no
//! randomness of its own; time and random numbers are passed in.
//!
//! Order of a request: [`table`] finds the port's route, [`rules`] say what else is done with it, [`affinity`] or
//! [`split`] picks the arm, [`balance`] the endpoint, [`classify`] judges the answer, [`retry`] says whether to try again
//! and [`budget`] whether the route can afford it, [`outlier`] leaves out endpoints that go on failing, [`flag`] names what
//! went wrong. [`merge`] decides which operator replica's word counts, [`limits`] what clients may take.

pub mod affinity;
pub mod audience;
pub mod balance;
pub mod budget;
pub mod classify;
pub mod flag;
pub mod limits;
pub mod merge;
pub mod mirror;
pub mod outlier;
pub mod pool;
pub mod retry;
pub mod rules;
pub mod split;
pub mod table;
pub mod trace;

pub use affinity::Affinity;
pub use classify::Outcome;
pub use flag::{Flag, Flags};
pub use limits::{Limit, Limits};
pub use pool::Pool;
pub use split::{Arm, Split};
pub use table::{Choice, Port, Protocol, Route, Table, Target};
