//! The two admission policies of the chart on a real API server, without any operator: what they hold, what they route,
//! and that nothing of it shows in anybody's diff.
//!
//! The policies are installed under names of their own, so that a Sluice on the same cluster is left alone. Each claim has a
//! namespace with a table. The process enters the cluster's network namespace first, so it has its own `main`.

mod hold;
mod route;
mod stage;

use std::process::ExitCode;

use anyhow::Result;
use e2e::cluster::Cluster;
use libtest_mimic::{Arguments, Failed, Trial};

use stage::{Namespace, Stage};

type Claim = (&'static str, fn(&Namespace) -> Result<()>);

const CLAIMS: [Claim; 10] = [
    ("a_changed_template_is_held_in_the_same_request", hold::held_in_the_same_request),
    ("only_the_operator_unpauses_what_is_held", hold::only_the_operator_unpauses),
    ("a_pause_of_the_manifest_keeps_the_last_word", hold::manifest_pause),
    ("hold_off_lets_a_template_through", hold::hold_off),
    ("apply_and_diff_of_unchanged_manifests_show_nothing", route::nothing_shows),
    ("git_goes_on_deciding_selector_and_target_port", route::git_decides),
    ("what_we_wrote_is_never_taken_for_what_was_asked", route::own_writes_come_back),
    ("a_service_gets_its_own_selector_back_and_no_foreign_manager", route::restored),
    ("other_ports_and_other_services_are_left_alone", route::left_alone),
    ("spoilt_notes_and_tables_refuse_no_request", route::spoilt),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let is_wanted = |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let listed = || CLAIMS.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
    if arguments.list || !CLAIMS.iter().any(|(name, _)| is_wanted(name)) {
        return Ok(libtest_mimic::run(arguments, listed()).exit_code());
    }
    e2e::cluster::reexec_in_netns()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _cluster = runtime.block_on(Cluster::start_for_tests())?;
    let stage = Stage::set(CLAIMS.len())?;
    let trials = stage.namespaces().zip(CLAIMS).map(|(namespace, (name, claim))| {
        Trial::test(name, move || {
            namespace.open()?;
            claim(&namespace).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    Ok(libtest_mimic::run(arguments, trials.collect()).exit_code())
}
