//! Runs the Argo CD scripts of `docs/gitops/argocd` in Lua 5.1, with the libraries that Argo CD gives them, over the
//! status of every phase. `UPDATE=1` writes `argocd-cm.yaml` anew from the scripts.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod gitops;

use gitops::{canary, documents, read};
use mlua::{Lua, LuaOptions, LuaSerdeExt as _, SerializeOptions, StdLib};
use serde::Deserialize;
use serde_json::{Value, json};

const ACTIONS: [&str; 5] = ["promote", "abort", "pause", "resume", "retry"];
const SNIPPET: &str = "argocd/argocd-cm.yaml";

#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    #[serde(rename = "discovery.lua")]
    discovery: String,
    definitions: Vec<Definition>,
}

#[derive(Deserialize)]
struct Definition {
    name: String,
    #[serde(rename = "action.lua")]
    script: String,
}

/// Argo CD opens base, package, table and a part of os: no string, no math, no io.
fn run(script: &str, object: &Value) -> mlua::Result<Value> {
    let lua = Lua::new_with(StdLib::TABLE | StdLib::PACKAGE, LuaOptions::default())?;
    let options = SerializeOptions::new().set_array_metatable(false).serialize_none_to_null(false);
    lua.globals().set("obj", lua.to_value_with(object, options)?)?;
    let result = lua.load(script).eval::<mlua::Value>()?;
    lua.from_value(result)
}

fn snippet() -> Value {
    serde_yaml_ng::from_str(&read(SNIPPET)).unwrap()
}

fn health_of(object: &Value) -> Health {
    let script = snippet()["data"]["resource.customizations.health.sluice.dev_Canary"].as_str().unwrap().to_owned();
    serde_json::from_value(run(&script, object).unwrap()).unwrap()
}

fn actions() -> Actions {
    let text = snippet()["data"]["resource.customizations.actions.sluice.dev_Canary"].as_str().unwrap().to_owned();
    serde_yaml_ng::from_str(&text).unwrap()
}

fn enabled(object: &Value) -> Vec<String> {
    let found = run(&actions().discovery, object).unwrap();
    let found = found.as_object().unwrap();
    let all: Vec<_> = ACTIONS.iter().map(|name| (*name).to_owned()).collect();
    let mut names: Vec<_> = found.keys().cloned().collect();
    names.sort();
    let mut wanted = all.clone();
    wanted.sort();
    assert_eq!(names, wanted, "discovery offers what is defined");
    all.into_iter().filter(|name| found[name]["disabled"] == json!(false)).collect()
}

fn act(action: &str, object: &Value) -> mlua::Result<Value> {
    let definition = actions().definitions.into_iter().find(|definition| definition.name == action).unwrap();
    run(&definition.script, object)
}

#[test]
fn the_scripts_get_no_more_libraries_than_argo_cd_gives() {
    assert!(run("return ('x'):upper()", &json!({})).is_err());
    assert_eq!(run("return obj.a", &json!({ "a": 1 })).unwrap(), json!(1));
}

#[test]
fn every_phase_has_the_health_that_the_docs_promise() {
    for (case, wanted) in [
        ("unobserved", "Progressing"),
        ("stale", "Progressing"),
        ("initializing", "Progressing"),
        ("refused", "Degraded"),
        ("initialized", "Healthy"),
        ("waiting", "Suspended"),
        ("progressing", "Progressing"),
        ("no-evidence", "Progressing"),
        ("paused", "Suspended"),
        ("waiting-promotion", "Suspended"),
        ("promoting", "Progressing"),
        ("finalising", "Progressing"),
        ("succeeded", "Healthy"),
        ("failed", "Degraded"),
        ("suspended", "Suspended"),
        ("terminating", "Progressing"),
    ] {
        let health = health_of(&canary(case));
        assert_eq!(health.status, wanted, "{case}: {}", health.message);
        assert!(!health.message.is_empty(), "{case} has no message");
    }
}

#[test]
fn the_message_says_where_and_why() {
    assert_eq!(
        health_of(&canary("progressing")).message,
        "Progressing, weight 25 %, step 2/4: the step is being judged"
    );
    assert_eq!(health_of(&canary("failed")).message, "Failed: request-success-rate was 95.2 %, wanted at least 99");
}

#[test]
fn a_partial_status_is_progressing_and_never_an_error() {
    let mut object = canary("progressing");
    for missing in ["conditions", "phase", "canaryWeight", "step", "message", "reason", "canaryRevision"] {
        object["status"].as_object_mut().unwrap().remove(missing);
        assert_eq!(health_of(&object).status, "Progressing", "without {missing}");
        enabled(&object);
    }
    object.as_object_mut().unwrap().remove("status");
    assert_eq!(health_of(&object).status, "Progressing");
    assert_eq!(enabled(&object), Vec::<String>::new());
}

#[test]
fn actions_are_offered_where_they_act() {
    for (case, wanted) in [
        ("unobserved", vec![]),
        ("initialized", vec![]),
        ("progressing", vec!["promote", "abort", "pause"]),
        ("paused", vec!["promote", "abort", "resume"]),
        ("waiting-promotion", vec!["promote", "abort", "pause"]),
        ("finalising", vec![]),
        ("succeeded", vec![]),
        ("failed", vec!["retry"]),
    ] {
        assert_eq!(enabled(&canary(case)), wanted, "{case}");
    }
}

/// What Argo CD sends is the merge patch from the object to the script's result: it must hold the annotation only.
#[test]
fn an_action_changes_one_annotation_and_names_the_revision() {
    use crds::names::{ANNOTATION_ABORT, ANNOTATION_PAUSE, ANNOTATION_PROMOTE, ANNOTATION_RETRY};
    for (case, action, key) in [
        ("progressing", "promote", ANNOTATION_PROMOTE),
        ("progressing", "abort", ANNOTATION_ABORT),
        ("progressing", "pause", ANNOTATION_PAUSE),
        ("failed", "retry", ANNOTATION_RETRY),
    ] {
        let mut wanted = canary(case);
        wanted["metadata"]["annotations"] = json!({ key: wanted["status"]["canaryRevision"] });
        assert_eq!(act(action, &canary(case)).unwrap(), wanted, "{action}");
    }
    let mut wanted = canary("paused");
    wanted["metadata"]["annotations"].as_object_mut().unwrap().remove(ANNOTATION_PAUSE);
    let mut resumed = act("resume", &canary("paused")).unwrap();
    // An empty table has no type in Lua.
    if resumed["metadata"]["annotations"] == json!([]) {
        resumed["metadata"]["annotations"] = json!({});
    }
    assert_eq!(resumed, wanted);
}

#[test]
fn an_action_without_a_revision_is_refused() {
    for action in ["promote", "abort", "pause", "retry"] {
        assert!(act(action, &canary("initialized")).is_err(), "{action}");
    }
}

#[test]
fn the_snippet_holds_the_scripts() {
    let text = mk_snippet();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(documents().join(SNIPPET), &text).unwrap();
    }
    assert!(read(SNIPPET) == text, "{SNIPPET} is stale: run `UPDATE=1 cargo test -p e2e --test gitops_argocd`");
}

fn mk_snippet() -> String {
    let mut text = "# Made from health.lua and actions/*.lua by the test gitops_argocd; do not edit.\n\
         # kubectl -n argocd patch configmap argocd-cm --patch-file argocd-cm.yaml\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\n  namespace: argocd\ndata:\n  \
         resource.customizations.health.sluice.dev_Canary: |\n"
        .to_owned();
    text += &indented(&read("argocd/health.lua"), 4);
    text += "  resource.customizations.actions.sluice.dev_Canary: |\n    discovery.lua: |\n";
    text += &indented(&read("argocd/actions/discovery.lua"), 6);
    text += "    definitions:\n";
    for action in ACTIONS {
        text += &format!("      - name: {action}\n        action.lua: |\n");
        text += &indented(&read(&format!("argocd/actions/{action}.lua")), 10);
    }
    text
}

fn indented(script: &str, columns: usize) -> String {
    let line = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("{}{line}\n", " ".repeat(columns)) };
    script.lines().map(line).collect()
}
