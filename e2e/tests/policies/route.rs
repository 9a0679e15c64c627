//! Claims about routed Services, and about what shows in a diff.

use anyhow::{Context as _, Result};
use crds::names::{ANNOTATION_SELECTOR, ANNOTATION_TARGET_PORTS, TABLE};
use e2e::kubectl::{self, Side};
use serde_json::json;

use crate::stage::{Manifests, Namespace, block_on};

pub(crate) fn nothing_shows(namespace: &Namespace) -> Result<()> {
    for side in [Side::Client, Side::Server] {
        let git = Manifests::new()?;
        namespace.apply(side, &git.deployment)?;
        namespace.apply(side, &git.service)?;
        let held = git.with_image("changed");
        namespace.apply(side, &held)?;
        assert!(namespace.is_paused()?);
        for object in [&held, &git.service] {
            let kind = object["kind"].as_str().unwrap_or_default();
            let diff = block_on(kubectl::diff(&namespace.name, &object.to_string(), side))?;
            assert_eq!(diff, "", "{kind}, {side:?}");
            let before = namespace.get(kind)?["metadata"]["resourceVersion"].clone();
            namespace.apply(side, object)?;
            assert_eq!(before, namespace.get(kind)?["metadata"]["resourceVersion"], "{kind}, {side:?}");
        }
        namespace.call(&["delete", "deployment,service", "web"], "")?;
    }
    Ok(())
}

pub(crate) fn git_decides(namespace: &Namespace) -> Result<()> {
    for side in [Side::Client, Side::Server] {
        let mut service = Manifests::new()?.service;
        namespace.apply(side, &service)?;
        namespace.assert_routed("app=web", "80/TCP=http,9090/TCP=echo")?;
        service["spec"]["selector"] = json!({ "tier": "front", "app": "web" });
        service["spec"]["ports"][0]["targetPort"] = json!(8081);
        namespace.apply(side, &service)?;
        namespace.assert_routed("app=web,tier=front", "80/TCP=8081,9090/TCP=echo")?;
        service["spec"]["selector"] = json!({ "tier": "front" });
        namespace.apply(side, &service)?;
        namespace.assert_routed("tier=front", "80/TCP=8081,9090/TCP=echo")?;
        namespace.call(&["delete", "service", "web"], "")?;
    }
    Ok(())
}

pub(crate) fn own_writes_come_back(namespace: &Namespace) -> Result<()> {
    let wanted = ("app=web", "80/TCP=http,9090/TCP=echo");
    namespace.apply(Side::Client, &Manifests::new()?.service)?;
    namespace.call(&["label", "service", "web", "team=shop"], "")?;
    namespace.assert_routed(wanted.0, wanted.1)?;
    // A tool that writes back what it read, without the annotations it does not know.
    let mut read = namespace.service()?;
    read["metadata"].as_object_mut().context("no metadata")?.remove("annotations");
    read["metadata"].as_object_mut().context("no metadata")?.remove("managedFields");
    namespace.call(&["replace", "-f", "-"], &read.to_string())?;
    namespace.assert_routed(wanted.0, wanted.1)
}

pub(crate) fn restored(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    namespace.apply(Side::Server, &git.service)?;
    namespace.assert_routed("app=web", "80/TCP=http,9090/TCP=echo")?;
    namespace.table(&json!({ "route.web.80.TCP": null, "route.web.9090.TCP": null }), false)?;
    namespace.call(&["patch", "service", "web", "--type=merge", "-p", "{}"], "")?;
    let service = namespace.service()?;
    assert_eq!(service["spec"]["selector"], git.service["spec"]["selector"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    assert_eq!(service["spec"]["ports"][1]["targetPort"], "echo");
    let annotations = &service["metadata"]["annotations"];
    assert!(annotations[ANNOTATION_SELECTOR].is_null() && annotations[ANNOTATION_TARGET_PORTS].is_null());
    let managers = service["metadata"]["managedFields"].as_array().context("no managedFields")?;
    assert!(managers.iter().all(|entry| entry["manager"] == "git"), "{managers:?}");
    // So a later change of Git is no conflict.
    let mut changed = git.service;
    changed["spec"]["selector"] = json!({ "app": "other" });
    namespace.apply(Side::Server, &changed)?;
    // Routed again by the same kind of touch.
    namespace.table(&json!({ "route.web.80.TCP": "15000", "route.web.9090.TCP": "15001" }), true)?;
    namespace.call(&["patch", "service", "web", "--type=merge", "-p", "{}"], "")?;
    namespace.assert_routed("app=other", "80/TCP=http,9090/TCP=echo")
}

pub(crate) fn left_alone(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    let mut other = git.service.clone();
    other["metadata"]["name"] = json!("other");
    namespace.apply(Side::Server, &other)?;
    let seen = namespace.call(&["get", "service", "other", "-o", "jsonpath={.spec.selector}"], "")?;
    assert_eq!(seen, r#"{"app":"web"}"#);
    // A port that Git adds before the operator has given it one keeps its own target; no port is invented.
    let mut more = git.service.clone();
    more["spec"]["ports"] = json!([{ "name": "http", "port": 80 }, { "name": "new", "port": 70, "targetPort": 7070 }]);
    namespace.apply(Side::Server, &more)?;
    let ports = namespace.service()?["spec"]["ports"].clone();
    assert_eq!(ports.as_array().map(Vec::len), Some(2));
    assert_eq!((&ports[0]["targetPort"], &ports[1]["targetPort"]), (&json!(15_000), &json!(7070)));
    // All ports changed at once: the Service goes around the pool rather than to ports where nobody listens.
    more["spec"]["ports"] = json!([{ "name": "http", "port": 81, "targetPort": "http" }]);
    namespace.apply(Side::Server, &more)?;
    assert_eq!(namespace.service()?["spec"]["selector"], json!({ "app": "web" }));
    let mut unmanaged = git.deployment.clone();
    unmanaged["metadata"]["name"] = json!("other");
    namespace.apply(Side::Server, &unmanaged)?;
    unmanaged["spec"]["template"]["spec"]["containers"][0]["image"] = json!("changed");
    namespace.apply(Side::Server, &unmanaged)?;
    let paused = namespace.call(&["get", "deployment", "other", "-o", "jsonpath={.spec.paused}"], "")?;
    assert_eq!(paused, "");
    let external = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "type": "ExternalName", "externalName": "example.org" },
    });
    namespace.call(&["delete", "service", "web"], "")?;
    namespace.apply(Side::Server, &external)
}

pub(crate) fn spoilt(namespace: &Namespace) -> Result<()> {
    let git = Manifests::new()?;
    namespace.apply(Side::Server, &git.service)?;
    let notes = [
        format!("{ANNOTATION_SELECTOR}=app=web,app=two,foo,=x,a/b/c=d,app.kubernetes.io/name=web"),
        format!("{ANNOTATION_TARGET_PORTS}=,,80/TCP=,zz,9090/TCP=echo,9090/TCP=two"),
    ];
    namespace.call(&["annotate", "service", "web", "--overwrite", &notes[0], &notes[1]], "")?;
    namespace.table(&json!({ "route.web.80.TCP": "many", "route.web.9090.TCP": "" }), false)?;
    namespace.call(&["patch", "service", "web", "--type=merge", "-p", "{}"], "")?;
    let service = namespace.service()?;
    assert_eq!(service["spec"]["selector"], json!({ "app": "two", "app.kubernetes.io/name": "web" }));
    assert_eq!(service["spec"]["ports"][1]["targetPort"], "echo");
    namespace.call(&["patch", "configmap", TABLE, "--type=merge", "-p", r#"{"data":null}"#], "")?;
    namespace.apply(Side::Server, &git.service)?;
    namespace.call(&["delete", "configmap", TABLE], "")?;
    namespace.apply(Side::Server, &git.deployment)?;
    namespace.apply(Side::Server, &git.with_image("changed"))?;
    Ok(())
}
