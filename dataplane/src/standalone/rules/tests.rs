use super::*;

/// Every field once; `docs/rules.md` and the operator's translation have the same.
const FULL: &str = "
name: full
hostnames: ['*.example.com']
matches:
- path: {type: PathPrefix, value: /v1}
  method: GET
  headers: [{name: x-a, value: '1'}, {type: RegularExpression, name: x-b, value: '[0-9]+'}]
  queryParams: [{name: q, value: '1'}]
urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}
requestHeaderModifier: {set: [{name: x-c, value: '1'}], add: [{name: x-d, value: '1'}], remove: [x-e]}
responseHeaderModifier: {remove: [x-f]}
cors: {allowOrigins: ['*'], allowMethods: [PUT], allowHeaders: ['*'], exposeHeaders: [x-g], maxAge: 60}
timeouts: {request: 2s}
fault: {delay: {fixedDelay: 50ms, percentage: 1}, abort: {httpStatus: 503}}
rateLimit: {requests: 10, unit: Minute, burst: 2}
";

fn parsed(text: &str) -> Result<api::Rule, String> {
    let rule = serde_yaml_ng::from_str::<Rule>(text).map_err(|error| error.to_string())?;
    message(rule)
}

#[test]
fn a_rule_in_full_can_be_taken_into_force() {
    let rule = parsed(FULL).unwrap();
    assert!(routing::rules::Rules::compile(std::slice::from_ref(&rule), None).unwrap().is_some());
    let kind = rule.rewrite.unwrap().path.unwrap().kind;
    assert_eq!(kind, Some(api::path_edit::Kind::Prefix("/v2".into())));
    assert_eq!((rule.request_timeout_ms, rule.rate_limit.unwrap().unit_ms), (Some(2_000), 60_000));
    let fault = api::Fault { delay_ms: 50, delay_percent: 1, abort_status: 503, abort_percent: 100 };
    assert_eq!(rule.fault, Some(fault));
}

#[test]
fn what_is_not_known_is_refused() {
    for text in ["mirror: 1", "matches: [{path: {type: Glob}}]", "requestRedirect: {path: {type: ReplaceFullPath}}"] {
        assert!(parsed(text).is_err(), "{text}");
    }
    assert!(parsed("timeouts: {request: '5'}").unwrap_err().contains("must end in ms, s or m"));
}
