//! What users are promised, told on a real cluster: each story's name is the claim.
//!
//! One cluster with Sluice installed serves all of them. Most run beside each other, each in a namespace of its own;
//! those that take a part of the cluster away, or count what the operator does, run alone. The process enters the
//! cluster's network namespace before anything else, so it has its own `main`.

mod adoption;
mod audience;
mod bad_input;
mod budget;
mod outages;
mod promises;
mod releases;
mod requests;
mod scaling;
mod story;
mod traces;
mod verdict;
mod zones;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::Arguments;

/// Stories that run at the same time unless `--test-threads` says otherwise: they wait more than they work.
const AT_ONCE: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stories = promises::all();
    let is_wanted = |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    if arguments.list || !stories.iter().any(|story| is_wanted(story.name)) {
        let trials = stories.into_iter().map(|story| libtest_mimic::Trial::test(story.name, || Ok(()))).collect();
        return Ok(libtest_mimic::run(arguments, trials).exit_code());
    }
    e2e::cluster::reexec_in_netns()?;
    let stage = story::Stage::set()?;
    let trials = stories.into_iter().enumerate().map(|(number, story)| stage.trial(number, story)).collect();
    Ok(libtest_mimic::run(arguments, trials).exit_code())
}
