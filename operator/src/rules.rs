//! `spec.service.rules` as the proxies get them: a change of words and nothing else. Pure. What a value means, and whether
//! it has a meaning that the schema cannot check, the proxies say; they keep the rules before it and refuse with the reason.

use crds::{
    Canary,
    rules::{
        Cors, Fault, HeaderField, HeaderModifier, HttpRule, Method, NamedMatch, NamedMatchType, PathMatchType,
        PathModifier, PathModifierType, RateLimit, RequestMatch, RequestRedirect, Scheme, Unit,
    },
};
use proxy_api::v1beta1 as api;

use crate::policy::{millis, unsigned};

/// The rules of a Canary, in the order given.
#[must_use]
pub fn messages(canary: &Canary) -> Vec<api::Rule> {
    canary.spec.service.rules.iter().flatten().map(message).collect()
}

fn message(rule: &HttpRule) -> api::Rule {
    let HttpRule {
        name,
        hostnames,
        matches,
        request_redirect,
        url_rewrite,
        request_header_modifier,
        response_header_modifier,
        cors,
        timeouts,
        fault,
        rate_limit,
    } = rule;
    api::Rule {
        name: name.clone().unwrap_or_default(),
        hostnames: hostnames.clone().unwrap_or_default(),
        matches: matches.iter().flatten().map(request_match).collect(),
        request_timeout_ms: timeouts.as_ref().map(|timeouts| millis(Some(&timeouts.request))),
        fault: fault.as_ref().map(faults),
        redirect: request_redirect.as_ref().map(redirect),
        rewrite: url_rewrite.as_ref().map(|rewrite| api::Rewrite {
            hostname: rewrite.hostname.clone().unwrap_or_default(),
            path: rewrite.path.as_ref().map(path_edit),
        }),
        request_headers: request_header_modifier.as_ref().map(field_edits),
        response_headers: response_header_modifier.as_ref().map(field_edits),
        cors: cors.as_ref().map(cors_policy),
        rate_limit: rate_limit.as_ref().map(limit),
    }
}

fn request_match(one: &RequestMatch) -> api::Match {
    use api::text_match::Kind;
    let RequestMatch { path, method, headers, query_params } = one;
    let path = path.as_ref().map(|path| match path.kind {
        PathMatchType::Exact => Kind::Exact(path.value.clone()),
        PathMatchType::PathPrefix => Kind::Prefix(path.value.clone()),
        PathMatchType::RegularExpression => Kind::Regex(path.value.clone()),
    });
    api::Match {
        path: path.map(|kind| api::TextMatch { kind: Some(kind) }),
        method: method.map(method_name).unwrap_or_default().to_owned(),
        headers: headers.iter().flatten().map(named_match).collect(),
        query: query_params.iter().flatten().map(named_match).collect(),
    }
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}

fn named_match(one: &NamedMatch) -> api::NamedMatch {
    use api::text_match::Kind;
    let kind = match one.kind {
        NamedMatchType::Exact => Kind::Exact(one.value.clone()),
        NamedMatchType::RegularExpression => Kind::Regex(one.value.clone()),
    };
    api::NamedMatch { name: one.name.clone(), value: Some(api::TextMatch { kind: Some(kind) }) }
}

fn redirect(redirect: &RequestRedirect) -> api::Redirect {
    let RequestRedirect { scheme, hostname, port, path, status_code } = redirect;
    let scheme = match scheme {
        None => "",
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
    };
    api::Redirect {
        scheme: scheme.to_owned(),
        hostname: hostname.clone().unwrap_or_default(),
        port: port.map(unsigned).unwrap_or_default(),
        path: path.as_ref().map(path_edit),
        status: unsigned(*status_code),
    }
}

fn path_edit(edit: &PathModifier) -> api::PathEdit {
    use api::path_edit::Kind;
    let PathModifier { kind, replace_full_path, replace_prefix_match } = edit;
    let kind = match kind {
        PathModifierType::ReplaceFullPath => Kind::Full(replace_full_path.clone().unwrap_or_default()),
        PathModifierType::ReplacePrefixMatch => Kind::Prefix(replace_prefix_match.clone().unwrap_or_default()),
    };
    api::PathEdit { kind: Some(kind) }
}

fn field_edits(edits: &HeaderModifier) -> api::FieldEdits {
    let HeaderModifier { set, add, remove } = edits;
    let fields = |fields: &Option<Vec<HeaderField>>| {
        let field = |field: &HeaderField| api::Field { name: field.name.clone(), value: field.value.clone() };
        fields.iter().flatten().map(field).collect()
    };
    api::FieldEdits { set: fields(set), add: fields(add), remove: remove.clone().unwrap_or_default() }
}

fn cors_policy(cors: &Cors) -> api::Cors {
    let Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } = cors;
    api::Cors {
        allow_origins: allow_origins.clone(),
        allow_credentials: *allow_credentials,
        allow_methods: allow_methods.clone().unwrap_or_default(),
        allow_headers: allow_headers.clone().unwrap_or_default(),
        expose_headers: expose_headers.clone().unwrap_or_default(),
        max_age_seconds: unsigned(*max_age),
    }
}

fn faults(fault: &Fault) -> api::Fault {
    let Fault { delay, abort } = fault;
    let delay = delay.as_ref().map(|delay| (millis(Some(&delay.fixed_delay)), unsigned(delay.percentage)));
    let abort = abort.as_ref().map(|abort| (unsigned(abort.http_status), unsigned(abort.percentage)));
    let ((delay_ms, delay_percent), (abort_status, abort_percent)) =
        (delay.unwrap_or_default(), abort.unwrap_or_default());
    api::Fault { delay_ms, delay_percent, abort_status, abort_percent }
}

fn limit(limit: &RateLimit) -> api::RateLimit {
    let RateLimit { requests, unit, burst } = limit;
    let unit_ms = match unit {
        Unit::Second => 1_000,
        Unit::Minute => 60_000,
        Unit::Hour => 3_600_000,
    };
    api::RateLimit { requests: unsigned(*requests), unit_ms, burst: burst.map(unsigned).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_in_full() {
        let rule: HttpRule = serde_json::from_value(json!({
            "name": "full",
            "hostnames": ["*.example.com"],
            "matches": [{
                "path": { "value": "/v1" },
                "method": "GET",
                "headers": [{ "type": "RegularExpression", "name": "x-a", "value": "[0-9]+" }],
                "queryParams": [{ "name": "q", "value": "1" }]
            }],
            "urlRewrite": { "hostname": "inner", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2" } },
            "requestRedirect": { "scheme": "https", "port": 8443 },
            "requestHeaderModifier": { "set": [{ "name": "a", "value": "1" }], "add": [{ "name": "b", "value": "2" }] },
            "responseHeaderModifier": { "remove": ["c"] },
            "cors": { "allowOrigins": ["*"], "allowMethods": ["PUT"], "exposeHeaders": ["d"] },
            "timeouts": { "request": "2s" },
            "fault": { "delay": { "fixedDelay": "50ms", "percentage": 1 }, "abort": { "httpStatus": 503 } },
            "rateLimit": { "requests": 10, "unit": "Minute", "burst": 2 }
        }))
        .unwrap();
        use api::{path_edit, text_match::Kind};
        let text = |kind| Some(api::TextMatch { kind: Some(kind) });
        let field = |name: &str, value: &str| api::Field { name: name.into(), value: value.into() };
        let named = |name: &str, kind| api::NamedMatch { name: name.into(), value: text(kind) };
        let path = Some(api::PathEdit { kind: Some(path_edit::Kind::Prefix("/v2".into())) });
        let wanted = api::Rule {
            name: "full".into(),
            hostnames: vec!["*.example.com".into()],
            matches: vec![api::Match {
                path: text(Kind::Prefix("/v1".into())),
                method: "GET".into(),
                headers: vec![named("x-a", Kind::Regex("[0-9]+".into()))],
                query: vec![named("q", Kind::Exact("1".into()))],
            }],
            request_timeout_ms: Some(2_000),
            fault: Some(api::Fault { delay_ms: 50, delay_percent: 1, abort_status: 503, abort_percent: 100 }),
            redirect: Some(api::Redirect { scheme: "https".into(), port: 8_443, status: 302, ..Default::default() }),
            rewrite: Some(api::Rewrite { hostname: "inner".into(), path }),
            request_headers: Some(api::FieldEdits {
                set: vec![field("a", "1")],
                add: vec![field("b", "2")],
                remove: vec![],
            }),
            response_headers: Some(api::FieldEdits { remove: vec!["c".into()], ..Default::default() }),
            cors: Some(api::Cors {
                allow_origins: vec!["*".into()],
                allow_methods: vec!["PUT".into()],
                expose_headers: vec!["d".into()],
                max_age_seconds: 5,
                ..Default::default()
            }),
            rate_limit: Some(api::RateLimit { requests: 10, unit_ms: 60_000, burst: 2 }),
        };
        assert_eq!(message(&rule), wanted);
    }

    #[test]
    fn what_is_not_known_is_not_accepted() {
        assert!(serde_json::from_value::<HttpRule>(json!({ "mirror": {} })).is_err());
        assert!(serde_json::from_value::<HttpRule>(json!({ "matches": [{ "path": { "type": "Glob" } }] })).is_err());
    }
}
