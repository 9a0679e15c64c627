use super::*;

fn variables() -> BTreeMap<String, String> {
    [
        ("direction", "inbound"),
        ("with-dash", "dashed"),
        ("hostile", r#"x"} or vector(1) #\"#),
        ("lines", "a\nb"),
        ("tick", "a`b"),
        ("quote", "it's"),
        ("limit", "2.5e-3"),
        ("codes", "4..|5.."),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn rendered(template: &str) -> Result<String, TemplateError> {
    let variables = variables();
    render(
        template,
        &Values {
            namespace: "shop",
            name: "web-canary",
            target: "web",
            service: "web-svc",
            revision: "5d9f",
            interval: "10s",
            variables: &variables,
        },
    )
}

#[test]
fn both_spellings_render_alike() {
    for (template, expected) in [
        // As in Flagger's own documentation.
        (
            r#"sum(rate(x{ns="{{ namespace }}",pod=~"{{ target }}-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"}[{{ interval }}]))"#,
            r#"sum(rate(x{ns="shop",pod=~"web-[0-9a-zA-Z]+(-[0-9a-zA-Z]+)"}[10s]))"#,
        ),
        (r#"{a="{{name}}",b="{{service}}"}"#, r#"{a="web-canary",b="web-svc"}"#),
        (r#"{d="{{ variables.direction }}"}"#, r#"{d="inbound"}"#),
        // The canary's pods only; Flagger has no word for them.
        (r#"{pod=~"{{ target }}-{{ revision }}-.*"}"#, r#"{pod=~"web-5d9f-.*"}"#),
        // Go only.
        (r#"{d="{{ index variables "with-dash" }}"}"#, r#"{d="dashed"}"#),
        (r#"{d="{{ index  variables `with-dash` }}"}"#, r#"{d="dashed"}"#),
        (r#"{n="{{ .Namespace }}",d="{{ .variables.direction }}"}"#, r#"{n="shop",d="inbound"}"#),
        (r#"{d="{{ index .Variables "with-dash" }}"}"#, r#"{d="dashed"}"#),
        ("x {{- /* why */ -}} [{{- interval -}}]", "x[10s]"),
        ("up{{/* }} in a comment */}}", "up"),
        // minijinja only.
        (r#"{d="{{ variables['with-dash'] | upper }}"}"#, r#"{d="DASHED"}"#),
        (r#"{d="{{ variables.absent | default('all') }}"}"#, r#"{d="all"}"#),
        // Numbers, durations and names may stand outside of a literal.
        ("x > {{ variables.limit }}", "x > 2.5e-3"),
        ("{{ variables.direction }}_total", "inbound_total"),
        ("x > {{ -3 }}", "x > -3"),
        // Braces of PromQL itself are left alone.
        ("a{} and b{c=\"{%\"} # {x}", "a{} and b{c=\"{%\"} # {x}"),
    ] {
        assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn a_value_cannot_leave_its_literal() {
    for (template, expected) in [
        (r#"{a="{{ variables.hostile }}"}"#, r#"{a="x\"} or vector(1) #\\"}"#),
        (r#"{a='{{ variables.quote }}'}"#, r#"{a='it\'s'}"#),
        (r#"{a="{{ variables.quote }}"}"#, r#"{a="it's"}"#),
        (r#"{a="\"{{ variables.hostile }}"}"#, r#"{a="\"x\"} or vector(1) #\\"}"#),
        (r#"{a="{{ variables.lines }}"}"#, r#"{a="a\nb"}"#),
        (r#"{a=`{{ variables.quote }}`}"#, r#"{a=`it's`}"#),
        (r#"{a=~"{{ variables.codes }}"}"#, r#"{a=~"4..|5.."}"#),
        ("up # \"\n > {{ variables.limit }}", "up # \"\n > 2.5e-3"),
    ] {
        assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
    }
    for template in [
        "{{ variables.hostile }}",
        "x{ {{ variables.codes }} }",
        "{a=`{{ variables.tick }}`}",
        "up # {{ variables.lines }}",
        "{a=\"x\"} > {{ variables.quote }}",
    ] {
        let error = rendered(template);
        assert!(matches!(error, Err(TemplateError::Unfit { .. })), "{template}: {error:?}");
    }
}

#[test]
fn errors_name_the_line_and_what_was_expected() {
    for (template, expected) in [
        ("up\n{{ namespac }}", "line 2: 'namespac' is not defined; defined are namespace, name, target"),
        ("{{ variables.foo }}", "'variables.foo' is not defined"),
        ("{{ variables.foo.bar }}", "'variables.foo.bar' is not defined"),
        ("{{ .Nope }}", "'.Nope' is not defined"),
        ("{{ ingress }}", "'ingress' is not defined"),
        ("{{ variables }}", "'variables' is not a single value"),
        ("up{a=\"{{ namespace\"}", "line 1: '{{' is not closed by '}}'"),
        ("{{ printf \"%s\" name }}", "line 1: '{{ printf \"%s\" name }}' cannot be evaluated"),
        ("{{ }}", "line 1: '{{  }}' cannot be evaluated"),
        ("{{ name | shout }}", "cannot be evaluated"),
        ("{{ 1 // 0 }}", "cannot be evaluated"),
        ("{% for x in y %}", "line 1: statements ('{% … %}') are not supported"),
    ] {
        let error = rendered(template).expect_err(template).to_string();
        assert!(error.contains(expected), "{template}: {error}");
    }
    assert_eq!(rendered(&"up + ".repeat(5_000)), Err(TemplateError::TooLong));
}

/// What a Go-like lexer makes of a query: its literals with their values, and everything else.
fn literals(query: &str) -> (Vec<String>, String) {
    let (mut values, mut code) = (Vec::new(), String::new());
    let mut characters = query.chars();
    while let Some(next) = characters.next() {
        if next != '"' && next != '\'' {
            code.push(next);
            continue;
        }
        let mut value = String::new();
        loop {
            match characters.next().expect("the literal must end") {
                end if end == next => break,
                '\n' => panic!("a literal must not hold a line break: {query}"),
                '\\' => match characters.next().expect("an escape must end") {
                    'n' => value.push('\n'),
                    // Prometheus refuses the escape of a quote that is not the literal's own.
                    c if c == '\\' || c == next => value.push(c),
                    c => panic!("unknown escape of {c}: {query}"),
                },
                c => value.push(c),
            }
        }
        values.push(value);
    }
    (values, code)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 2_000, ..Default::default() })]

    #[test]
    fn no_value_changes_the_shape_of_a_query(value in "[ -~\\n`'\"\\\\{}é]{0,40}") {
        let variables = BTreeMap::from([("v".to_owned(), value.clone())]);
        let render = |template: &str| {
            let values = Values {
                namespace: "shop", name: "web", target: "web", service: "web", revision: "5d9f", interval: "10s",
                variables: &variables,
            };
            render(template, &values)
        };
        let query = render(r#"a{b="{{ variables.v }}",c='{{ variables.v }}'} > 1"#).unwrap();
        proptest::prop_assert_eq!(literals(&query), (vec![value.clone(), value.clone()], "a{b=,c=} > 1".to_owned()));
        if let Ok(query) = render("a > {{ variables.v }}") {
            let token = |c: char| c.is_ascii_alphanumeric() || "_:.+-".contains(c);
            proptest::prop_assert!(query["a > ".len()..].chars().all(token), "{}", query);
        }
    }
}
