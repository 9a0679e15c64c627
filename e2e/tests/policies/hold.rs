//! Claims about held Deployments.

use anyhow::Result;
use crds::names::ANNOTATION_HELD;
use e2e::kubectl::Side;
use serde_json::{Value, json};

use crate::stage::{Manifests, Namespace};

const OPERATOR: &str = "system:serviceaccount:sluice-system:sluice-operator";

pub(crate) fn held_in_the_same_request(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    for image in ["a", "b"] {
        namespace.apply(Side::Client, &git.deployment)?;
        let answer = namespace.call(&["apply", "-o", "json", "-f", "-"], &git.with_image(image).to_string())?;
        let answer: Value = serde_json::from_str(&answer)?;
        assert_eq!(answer["spec"]["paused"], true);
        assert_eq!(answer["metadata"]["annotations"][ANNOTATION_HELD], "true");
        assert_eq!(answer["spec"]["template"]["spec"]["containers"][0]["image"], image);
    }
    let managed = namespace.deployment()?["metadata"]["managedFields"].to_string();
    assert!(!managed.contains("f:paused"), "nobody owns the pause: {managed}");
    // Scaling is no release.
    namespace.call(&["scale", "deployment", "web", "--replicas=1"], "")?;
    assert_eq!(namespace.deployment()?["spec"]["replicas"], 1);
    Ok(())
}

pub(crate) fn only_the_operator_unpauses(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    namespace.apply(Side::Client, &git.deployment)?;
    let mut changed = git.with_image("changed");
    namespace.apply(Side::Client, &changed)?;
    namespace.call(&["rollout", "resume", "deployment", "web"], "")?;
    assert!(namespace.is_paused()?, "after rollout resume");
    namespace.call(&["replace", "-f", "-"], &changed.to_string())?;
    assert!(namespace.is_paused()?, "after replace");
    changed["spec"]["paused"] = json!(false);
    namespace.call(&["replace", "-f", "-"], &changed.to_string())?;
    assert!(namespace.is_paused()?, "after replace with paused: false");
    namespace.call(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &changed.to_string())?;
    assert!(namespace.is_paused()?, "after apply --server-side with paused: false");

    let unpause =
        r#"[{"op":"remove","path":"/spec/paused"},{"op":"remove","path":"/metadata/annotations/sluice.dev~1held"}]"#;
    let operator = ["--as", OPERATOR, "--as-group", "system:masters"];
    let mut arguments = vec!["patch", "deployment", "web", "--type=json", "-p", unpause];
    arguments.extend(operator);
    namespace.call(&arguments, "")?;
    let deployment = namespace.deployment()?;
    assert!(deployment["spec"]["paused"].is_null());
    assert!(deployment["metadata"]["annotations"][ANNOTATION_HELD].is_null());
    // Its own template change is held like anybody's: so it tries, by a dry run, whether the hold is in force.
    let template = r#"{"spec":{"template":{"metadata":{"annotations":{"probe":"1"}}}}}"#;
    let mut arguments =
        vec!["patch", "deployment", "web", "--type=merge", "-p", template, "--dry-run=server", "-o", "json"];
    arguments.extend(operator);
    let answer: serde_json::Value = serde_json::from_str(&namespace.call(&arguments, "")?)?;
    assert_eq!(answer["spec"]["paused"], true);
    Ok(())
}

pub(crate) fn manifest_pause(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    let mut paused = git.deployment.clone();
    paused["spec"]["paused"] = json!(true);
    namespace.apply(Side::Server, &paused)?;
    let mut changed = git.with_image("changed");
    changed["spec"]["paused"] = json!(true);
    namespace.apply(Side::Server, &changed)?;
    let deployment = namespace.deployment()?;
    assert_eq!(deployment["spec"]["paused"], true);
    assert!(deployment["metadata"]["annotations"][ANNOTATION_HELD].is_null(), "the pause is the manifest's");
    // Once Git says no more, it is a hold: what was changed meanwhile was not judged.
    namespace.apply(Side::Server, &git.with_image("changed"))?;
    let deployment = namespace.deployment()?;
    assert_eq!(deployment["spec"]["paused"], true);
    assert_eq!(deployment["metadata"]["annotations"][ANNOTATION_HELD], "true");
    Ok(())
}

pub(crate) fn hold_off(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    namespace.apply(Side::Client, &git.deployment)?;
    namespace.apply(Side::Client, &git.with_image("held"))?;
    assert!(namespace.is_paused()?);
    namespace.call(&["annotate", "deployment", "web", "sluice.dev/hold=off"], "")?;
    namespace.call(&["rollout", "resume", "deployment", "web"], "")?;
    namespace.apply(Side::Client, &git.with_image("urgent"))?;
    let deployment = namespace.deployment()?;
    assert!(deployment["spec"]["paused"].is_null());
    assert!(deployment["metadata"]["annotations"][ANNOTATION_HELD].is_null(), "no mark without a hold");
    Ok(())
}
