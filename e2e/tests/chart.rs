//! What the chart renders, without a cluster: the values that it refuses, the rights that it asks for, how its pods run,
//! and the names and ports that it shares with the programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::{Command, Output};

use e2e::cluster::binaries;
use e2e::manifests::workspace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Deserialize as _;
use serde_json::{Value, json};

const NAMESPACE: &str = crds::names::SYSTEM_NAMESPACE;

fn helm(arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries::helm().unwrap());
    command.args(["template", "sluice", "--namespace", NAMESPACE]).arg(workspace().join("charts/sluice"));
    if !arguments.contains(&"--kube-version") {
        command.args(["--kube-version", "1.36.0"]);
    }
    command.args(arguments).output().unwrap()
}

fn render(arguments: &[&str]) -> Vec<Value> {
    let output = helm(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn refusal(arguments: &[&str]) -> String {
    let output = helm(arguments);
    assert!(!output.status.success(), "{arguments:?} is accepted");
    String::from_utf8(output.stderr).unwrap()
}

fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "two {kind} {name}");
    object
}

fn pods(objects: &[Value]) -> Vec<&Value> {
    let pods: Vec<_> = objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect();
    assert_eq!(pods.len(), 2, "the operator and the clean-up");
    pods
}

#[test]
fn a_value_that_does_not_exist_or_is_out_of_range_is_refused_by_name() {
    for (value, named) in [
        ("operator.replica=3", "replica"),
        ("operator.replicas=0", "/operator/replicas"),
        ("metricsServer=prometheus", "/metricsServer"),
        ("scrapeInterval=often", "/scrapeInterval"),
        ("operator.logFormat=xml", "/operator/logFormat"),
        ("operator.outboundDeny={everywhere}", "/operator/outboundDeny/0"),
        ("proxy.image.pullPolicy=Sometimes", "/proxy/image/pullPolicy"),
        ("cleanup.timeoutSeconds=1", "/cleanup/timeoutSeconds"),
    ] {
        let sentence = refusal(&["--set", value]);
        assert!(sentence.contains(named), "{value}: {sentence}");
    }
}

#[test]
fn a_cluster_without_the_policies_is_refused_in_one_sentence() {
    let sentence = refusal(&["--kube-version", "1.35.4"]);
    let lines: Vec<_> = sentence.lines().filter(|line| line.contains("kubeVersion")).collect();
    assert_eq!(lines.len(), 1, "{sentence}");
    assert!(lines[0].contains("1.36") && lines[0].contains("1.35.4"), "{sentence}");
}

#[test]
fn no_right_is_broader_than_its_reason() {
    let objects = render(&[]);
    let roles = ["operator", "cleanup"].map(|name| one(&objects, "ClusterRole", &format!("sluice-{name}")));
    let own = one(&objects, "Role", "sluice-operator");
    for rule in roles.into_iter().chain([own]).flat_map(|role| role["rules"].as_array().unwrap()) {
        let text = rule.to_string();
        for broad in ["\"*\"", "escalate", "\"bind\"", "impersonate", "deletecollection", "exec"] {
            assert!(!text.contains(broad), "{text}");
        }
        let verbs = rule["verbs"].as_array().unwrap();
        let resources = rule["resources"].as_array().unwrap();
        let has = |verb: &str| verbs.contains(&json!(verb));
        // Of these two the operator sees what it knows the name of.
        let by_name = resources.contains(&json!("secrets")) || resources.contains(&json!("configmaps"));
        assert!(!by_name || rule["resourceNames"].is_array() || *verbs == [json!("create")], "{text}");
        assert!(!resources.contains(&json!("secrets")) || !(has("list") || has("watch")), "{text}");
    }
}

#[test]
fn each_rule_says_why() {
    let text = std::fs::read_to_string(workspace().join("charts/sluice/templates/rbac.yaml")).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let rules: Vec<_> = (1..lines.len()).filter(|at| lines[*at].starts_with("- apiGroups:")).collect();
    assert!(rules.len() > 20);
    for at in rules {
        // `create` cannot be limited by name and so stands in a rule of its own, under the reason of its sibling.
        let is_sibling = lines[at..].iter().take(4).any(|line| *line == "verbs: [create]");
        assert!(lines[at - 1].starts_with('#') || is_sibling, "line {}: {}", at + 1, lines[at]);
    }
}

/// Pod Security Standards, profile restricted; and no writable root, which it does not ask for.
#[test]
fn every_pod_is_restricted() {
    for pod in pods(&render(&[])) {
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        for name in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
            assert!(pod[name].is_null(), "{name}");
        }
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
            assert!(container["resources"]["limits"]["memory"].is_string());
        }
    }
}

#[test]
fn names_and_ports_are_those_of_the_programs() {
    use crds::names::{
        ANNOTATION_HELD, ANNOTATION_HOLD, ANNOTATION_SELECTOR, ANNOTATION_TARGET_PORTS, HOLD_POLICY, LEASE,
        OPERATOR_SERVICE, POOL_DEFAULT, POOL_LABEL, ROUTE_POLICY, TABLE, TABLE_HELD_PREFIX, TABLE_ROUTE_PREFIX,
    };
    let objects = render(&[]);
    let service = one(&objects, "Service", OPERATOR_SERVICE);
    assert_eq!(service["spec"]["ports"][0]["port"], proxy_api::OPERATOR_CONFIG_PORT);
    assert_eq!(service["spec"]["clusterIP"], "None");
    let deployment = one(&objects, "Deployment", "sluice-operator");
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0]["containerPort"], proxy_api::OPERATOR_CONFIG_PORT);
    assert_eq!(ports[1]["containerPort"], proxy_api::OPERATOR_ADMIN_PORT);
    let role = one(&objects, "Role", "sluice-operator").to_string();
    assert!(role.contains(LEASE));
    let cluster_role = one(&objects, "ClusterRole", "sluice-operator").to_string();
    for name in [TABLE, HOLD_POLICY, ROUTE_POLICY] {
        assert!(cluster_role.contains(&format!("\"{name}\"")), "{name}");
    }
    let hold = one(&objects, "MutatingAdmissionPolicy", HOLD_POLICY)["spec"].to_string();
    for name in [ANNOTATION_HOLD, &ANNOTATION_HELD.replace('/', "~1"), TABLE_HELD_PREFIX, NAMESPACE] {
        assert!(hold.contains(name), "{name}");
    }
    let route = one(&objects, "MutatingAdmissionPolicy", ROUTE_POLICY)["spec"].to_string();
    for name in [ANNOTATION_SELECTOR, ANNOTATION_TARGET_PORTS, TABLE_ROUTE_PREFIX] {
        assert!(route.contains(name), "{name}");
    }
    assert!(route.contains(&format!("{{'{POOL_LABEL}': '{POOL_DEFAULT}'}}")));
    // An unrouted port in the pool's range was routed until now: `^(1[5-9]|2[0-4])[0-9]{3}$`.
    assert_eq!((proxy_api::PROXY_PORT_FIRST, proxy_api::PROXY_PORT_LAST), (15_000, 24_999));
    let ingress = one(&objects, "NetworkPolicy", "sluice-operator").to_string();
    assert!(ingress.contains(POOL_LABEL));
}

#[test]
fn the_definitions_are_those_of_the_types_and_outlive_the_release() {
    let objects = render(&[]);
    for (file, definition) in crds::definitions() {
        let name = definition.metadata.name.clone().unwrap();
        let object = one(&objects, "CustomResourceDefinition", &name);
        let rendered: CustomResourceDefinition = serde_json::from_value(object.clone()).unwrap();
        assert!(rendered.spec == definition.spec, "{file}");
        assert_eq!(object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn secrets_for_alerts_are_read_by_name_unless_the_user_says_otherwise() {
    let rule = |arguments: &[&str]| {
        let objects = render(arguments);
        let rules = one(&objects, "ClusterRole", "sluice-operator")["rules"].as_array().unwrap().clone();
        rules.into_iter().find(|rule| rule["resources"] == json!(["secrets"]))
    };
    assert_eq!(rule(&[]).unwrap()["resourceNames"], json!(["sluice-alerts"]));
    assert!(rule(&["--set", "alertSecretNames={*}"]).unwrap()["resourceNames"].is_null());
    assert!(rule(&["--set", "alertSecretNames=null"]).is_none());
}

#[test]
fn values_reach_the_pods() {
    let objects = render(&[
        "--set",
        "operator.image.repository=registry.example.org/op,operator.image.tag=t,proxy.image.digest=sha256:\
         0000000000000000000000000000000000000000000000000000000000000000,operator.logFormat=text,podMonitor.enabled=true,\
         operator.podLabels.team=release,podMonitor.labels.prometheus=main,operator.outboundDeny={10.0.0.1/32,fd00::/8}",
    ]);
    let operator = one(&objects, "Deployment", "sluice-operator");
    let container = &operator["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.org/op:t");
    let arguments = container["args"].to_string();
    for wanted in [
        "--proxy-image=sluice.dev/sluice-proxy@sha256:0000",
        "--log-format=text",
        "--scrape-interval=15s",
        "--outbound-deny=10.0.0.1/32,fd00::/8",
    ] {
        assert!(arguments.contains(wanted), "{arguments}");
    }
    let plain = render(&[]);
    let arguments =
        one(&plain, "Deployment", "sluice-operator")["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(!arguments.contains("--outbound-deny"), "{arguments}");
    assert_eq!(operator["spec"]["template"]["metadata"]["labels"]["team"], "release");
    assert_eq!(one(&objects, "PodMonitor", "sluice-proxy")["metadata"]["labels"]["prometheus"], "main");
    assert!(render(&["--set", "networkPolicy.enabled=false"]).iter().all(|object| object["kind"] != "NetworkPolicy"));
}
