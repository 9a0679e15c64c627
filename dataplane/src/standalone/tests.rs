use super::*;

fn check(text: &str) -> Result<api::Snapshot, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("routes.yaml");
    std::fs::write(&path, text).unwrap();
    read(&path, Some(8080), 3).map_err(|error| Chain(&error).to_string())
}

#[test]
fn a_file_says_what_the_stream_would() {
    let snapshot = check(
        "limits: {maxStreams: 9}\nroutes:\n- service: web\n  weight: 10\n  requestTimeout: 15s\n  sessionAffinity: {cookieName: sid}\n  \
         match: [{headers: {x-beta: {suffix: s}}}]\n  \
         listeners:\n  - stable: ['127.0.0.1:1']\n    canary: [{address: '[::1]:2', zone: a}]\n  - port: 9090\n    split: false\n",
    )
    .unwrap();
    assert_eq!(snapshot.limits, Some(api::Limits { max_streams: 9, ..Default::default() }));
    let route = &snapshot.routes[0];
    assert_eq!((route.uid.as_str(), route.canary.as_str(), route.weight, route.counter), ("default/web", "web", 10, 3));
    let pattern = api::text_match::Kind::Regex("(?s).*s".into());
    let value = Some(api::TextMatch { kind: Some(pattern) });
    assert_eq!(route.audience[0].headers, [api::NamedMatch { name: "x-beta".into(), value }]);
    let affinity = api::Affinity { cookie: "sid".into(), max_age_seconds: 86_400, header: String::new() };
    assert_eq!(route.affinity, Some(affinity));
    assert_eq!(route.http.as_ref().unwrap().request_timeout_ms, 15_000);
    assert_eq!((route.listeners[0].port, route.listeners[1].port), (8080, 9090));
    let far = api::Endpoint { address: "::1".into(), port: 2, zone: "a".into(), ..Default::default() };
    assert_eq!(route.listeners[0].canary, [far]);
    assert_eq!(route.listeners[0].stable[0].zone, "");
    assert!(route.listeners[0].split && !route.listeners[1].split);
}

#[test]
fn a_wrong_file_is_refused_with_the_place_and_the_reason() {
    for (text, reason) in [
        ("routes: 1", "invalid type"),
        ("limits: {maxHeaders: 9}\nroutes: []\n", "maxHeaders is 9, must be between 16 and 256"),
        ("limits: {maxRequests: 9}\nroutes: []\n", "unknown field `maxRequests`"),
        ("routes:\n- service: web\n  listeners: [{stable: [web]}]\n", "invalid socket address"),
        ("routes:\n- service: web\n  listeners: [{stable: [{zone: a}]}]\n", "missing field `address`"),
        ("routes:\n- service: web\n  wait: 1\n  listeners: []\n", "unknown field `wait`"),
        ("routes:\n- service: web\n  weight: 101\n  listeners: [{}]\n", "weight is 101, must be at most 100"),
        ("routes:\n- service: web\n  requestTimeout: '15'\n  listeners: [{}]\n", "must end in ms, s or m"),
        ("routes:\n- service: web\n  sessionAffinity: {}\n  listeners: [{}]\n", "takes either a cookie or a header"),
        (
            "routes:\n- {service: a, listeners: [{}]}\n- {service: b, listeners: [{}]}\n",
            "port 8080 belongs to default/a",
        ),
    ] {
        let error = check(text).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_files_of_the_documentation_are_valid() {
    let page = include_str!("../../../docs/standalone.md");
    let files: Vec<_> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert_eq!(check(file).map(|_| ()), Ok(()), "{file}");
    }
}
