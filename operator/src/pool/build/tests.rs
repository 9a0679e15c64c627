use serde_json::{Value, json};

use super::{
    fixtures::{mk_pool, mk_settings},
    *,
};

fn built(spec: Value, settings: &PoolSettings) -> Value {
    serde_json::to_value(build(&mk_pool(spec), settings).deployment).unwrap()
}

#[test]
fn every_object_belongs_to_the_pool() {
    let PoolObjects { service_account, config_map, deployment, disruption_budget } =
        build(&mk_pool(json!({})), &mk_settings());
    for meta in [&service_account.metadata, &config_map.metadata, &deployment.metadata, &disruption_budget.metadata] {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("ProxyPool", "p-1"));
        assert_eq!(meta.namespace.as_deref(), Some("shop"));
        assert_eq!(meta.annotations.as_ref().unwrap()[ANNOTATION_APPLIED].len(), 16);
    }
}

#[test]
fn the_pods_meet_the_restricted_standard() {
    let spec = built(json!({}), &mk_settings())["spec"]["template"]["spec"].clone();
    let pod = &spec["securityContext"];
    assert_eq!((&pod["runAsNonRoot"], &pod["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")));
    assert_eq!(
        spec["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] }
        })
    );
    assert_eq!(spec["automountServiceAccountToken"], json!(false));
}

#[test]
fn a_proxy_is_told_who_the_operator_is_and_who_it_is_itself() {
    let spec = built(json!({ "workers": 3, "logLevel": "debug" }), &mk_settings())["spec"]["template"]["spec"].clone();
    let container = &spec["containers"][0];
    assert_eq!(
        container["args"],
        json!([
            "--operator=sluice-operator.sluice-system.svc:9443",
            "--ca=/etc/sluice/ca/ca.crt",
            "--token=/var/run/secrets/sluice/token",
            "--state-dir=/var/lib/sluice",
            "--workers=3"
        ])
    );
    let names: Vec<_> = container["env"].as_array().unwrap().iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["POD_NAME", "POD_NAMESPACE", "POD_ZONE", "RUST_LOG"]);
    assert_eq!(
        spec["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"],
        json!({ "audience": "sluice-operator", "expirationSeconds": 3600, "path": "token" })
    );
}

#[test]
fn the_access_log_and_traces_become_arguments() {
    let args = |spec: Value| {
        let args = built(spec, &mk_settings())["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        args.as_array().unwrap()[4..].to_vec()
    };
    assert_eq!(args(json!({ "accessLog": { "mode": "Off" } })), Vec::<Value>::new());
    assert_eq!(args(json!({ "accessLog": { "mode": "Errors" } })), ["--access-log=errors"]);
    let both = json!({
        "accessLog": { "mode": "Sampled", "ratio": 0.5 },
        "tracing": { "endpoint": "http://collector:4317" }
    });
    let expected = ["--access-log=0.5", "--tracing-endpoint=http://collector:4317", "--tracing-ratio=0.01"];
    assert_eq!(args(both), expected);
}

#[test]
fn a_rolling_update_never_goes_below_the_wanted_number() {
    let spec = built(json!({ "replicas": 3 }), &mk_settings())["spec"].clone();
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({ "maxSurge": 1, "maxUnavailable": 0 }));
    assert_eq!(spec["replicas"], json!(3));
}

#[test]
fn scrape_annotations_and_resources_follow_the_settings() {
    let plain =
        built(json!({ "resources": { "limits": { "cpu": "2" } } }), &PoolSettings { scrape: false, ..mk_settings() });
    assert_eq!(plain["spec"]["template"]["metadata"]["annotations"], Value::Null);
    assert_eq!(plain["spec"]["template"]["spec"]["containers"][0]["resources"], json!({ "limits": { "cpu": "2" } }));
    let scraped = built(json!({}), &mk_settings());
    assert_eq!(scraped["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"], json!("14999"));
}

#[test]
fn the_digest_changes_with_what_is_applied_and_only_then() {
    let digest = |value: &Value| value["metadata"]["annotations"][ANNOTATION_APPLIED].clone();
    let one = built(json!({}), &mk_settings());
    assert_eq!(digest(&one), digest(&built(json!({}), &mk_settings())));
    assert_ne!(digest(&one), digest(&built(json!({ "workers": 1 }), &mk_settings())));
}
