//! The demo: the main job, shown on a real cluster.
//!
//! [`stage`] sets the scene (application, load, a stand-in for Slack), [`release`] follows one release, [`view`] and
//! [`screen`] show it, [`fit`] to the terminal's width, [`table`] prints objects as kubectl would. The program is `src/bin/demo.rs`.

pub mod fit;
pub mod release;
pub mod screen;
pub mod stage;
pub mod table;
pub mod view;
