//! Turns the query of a `MetricTemplate` into PromQL.
//!
//! Takes Flagger's Go-template spelling and minijinja's: both write `{{ namespace }}` and `{{ variables.foo }}`; of what
//! Go alone knows, `{{ index variables "foo" }}`, `{{ .Namespace }}`, `{{- trim -}}` and `{{/* comments */}}` are
//! understood. Expressions only: statements are refused, so a template cannot loop.
//!
//! A value never changes the shape of the query. Inside a string literal it is escaped for that literal; outside one
//! only a number, a duration or a name is let in. A name that is not defined is an error, as in Flagger.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, Value, context, filters};

use super::promql::Place;

/// Longest rendered query: twice the longest template, and what proxies in front of Prometheus take.
const QUERY_BYTES_MAX: usize = 16 * 1024;

/// What a template may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    /// `{{ namespace }}`: the Canary's namespace.
    pub(super) namespace: &'a str,
    /// `{{ name }}`: the Canary's name.
    pub(super) name: &'a str,
    /// `{{ target }}`: the Deployment's name.
    pub(super) target: &'a str,
    /// `{{ service }}`: the Service's name.
    pub(super) service: &'a str,
    /// `{{ revision }}`: pod-template hash under test.
    pub(super) revision: &'a str,
    /// `{{ interval }}`: the window, as a PromQL duration.
    pub(super) interval: &'a str,
    /// `{{ variables.<key> }}`: the metric's `templateVariables`.
    pub(super) variables: &'a BTreeMap<String, String>,
}

/// What is wrong with a template. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("line {line}: '{{{{' is not closed by '}}}}'")]
    Unclosed {
        /// Of the opening braces.
        line: usize,
    },
    /// `{% … %}`.
    #[error("line {line}: statements ('{{% … %}}') are not supported, only '{{{{ … }}}}'")]
    Statement {
        /// Of the statement.
        line: usize,
    },
    /// What stands between the braces cannot be read.
    #[error("line {line}: '{{{{ {expression} }}}}' cannot be evaluated: {problem}")]
    Expression {
        /// Of the expression.
        line: usize,
        /// As written.
        expression: String,
        /// What the engine says.
        problem: String,
    },
    /// A name without a value.
    #[error("line {line}: '{expression}' is not defined; defined are {known}")]
    Undefined {
        /// Of the expression.
        line: usize,
        /// As written.
        expression: String,
        /// The names that are.
        known: String,
    },
    /// The value is a list or a map.
    #[error("line {line}: '{expression}' is not a single value; write for example 'variables.<key>'")]
    NotSingle {
        /// Of the expression.
        line: usize,
        /// As written.
        expression: String,
    },
    /// The value would change the shape of the query.
    #[error("line {line}: the value of '{expression}' does not fit here: {expected}")]
    Unfit {
        /// Of the expression.
        line: usize,
        /// As written.
        expression: String,
        /// What would fit.
        expected: &'static str,
    },
    /// Too long when rendered.
    #[error("the rendered query is longer than {QUERY_BYTES_MAX} bytes")]
    TooLong,
}

/// Renders `template`.
///
/// # Errors
/// [`TemplateError`]; someone has to change the template or the metric's `templateVariables`.
pub(super) fn render(template: &str, values: &Values<'_>) -> Result<String, TemplateError> {
    let mut query = String::with_capacity(template.len());
    let mut place = Place::Code;
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        let line = 1 + template[..template.len() - rest.len()].matches('\n').count();
        if place == Place::Code && rest.starts_with("{%") {
            return Err(TemplateError::Statement { line });
        }
        if let Some(inside) = rest.strip_prefix("{{") {
            let tag = Tag::read(inside).ok_or(TemplateError::Unclosed { line })?;
            if tag.trim_before {
                query.truncate(query.trim_end().len());
            }
            if let Some(expression) = tag.expression {
                let value = evaluate(expression, values, line)?;
                let unfit = |expected| TemplateError::Unfit { line, expression: expression.to_owned(), expected };
                query.push_str(&place.embed(&value).map_err(unfit)?);
            }
            rest = if tag.trim_after { tag.rest.trim_start() } else { tag.rest };
        } else {
            // An escaped character inside a literal is taken together with its backslash.
            let length = if place.escapes(next) {
                1 + rest[1..].chars().next().map_or(0, char::len_utf8)
            } else {
                place = place.after(next);
                next.len_utf8()
            };
            query.push_str(&rest[..length]);
            rest = &rest[length..];
        }
        if query.len() > QUERY_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
    }
    Ok(query)
}

/// One `{{ … }}`, from behind its opening braces.
struct Tag<'a> {
    /// `None`: a comment.
    expression: Option<&'a str>,
    trim_before: bool,
    trim_after: bool,
    rest: &'a str,
}

impl<'a> Tag<'a> {
    fn read(inside: &'a str) -> Option<Self> {
        // Go wants white space behind the dash, which tells a trim marker from a minus sign.
        let trim_before = inside.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_whitespace));
        let inside = if trim_before { &inside[1..] } else { inside };
        if let Some(comment) = inside.trim_start().strip_prefix("/*") {
            let after = &comment[comment.find("*/")? + 2..];
            let end = after.find("}}")?;
            let trim_after = after[..end].trim() == "-";
            return Some(Self { expression: None, trim_before, trim_after, rest: &after[end + 2..] });
        }
        let end = closing_braces(inside)?;
        let (written, rest) = (&inside[..end], &inside[end + 2..]);
        let unmarked = written.strip_suffix('-').filter(|written| written.ends_with(char::is_whitespace));
        let expression = unmarked.unwrap_or(written).trim();
        Some(Self { expression: Some(expression), trim_before, trim_after: unmarked.is_some(), rest })
    }
}

/// Offset of the `}}` that closes a tag: not one inside a string literal.
fn closing_braces(inside: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (offset, character) in inside.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(open) if open != '`' && character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'' | '`') => quote = Some(character),
            None if inside[offset..].starts_with("}}") => return Some(offset),
            None => {}
        }
    }
    None
}

fn evaluate(expression: &str, values: &Values<'_>, line: usize) -> Result<String, TemplateError> {
    let translated = go_index(expression).unwrap_or_else(|| go_field(expression));
    let failed = |error: minijinja::Error| TemplateError::Expression {
        line,
        expression: expression.to_owned(),
        problem: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
    };
    let environment = environment();
    let compiled = environment.compile_expression(&translated).map_err(failed)?;
    let undefined = || TemplateError::Undefined { line, expression: expression.to_owned(), known: known(values) };
    let value = compiled
        .eval(context! {
            namespace => values.namespace,
            name => values.name,
            target => values.target,
            service => values.service,
            revision => values.revision,
            interval => values.interval,
            variables => values.variables,
        })
        .map_err(|error| match error.kind() {
            minijinja::ErrorKind::UndefinedError => undefined(),
            _ => failed(error),
        })?;
    if value.is_undefined() {
        return Err(undefined());
    }
    single(&value).ok_or_else(|| TemplateError::NotSingle { line, expression: expression.to_owned() })
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("default", filters::default);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("replace", filters::replace);
    environment
}

fn single(value: &Value) -> Option<String> {
    use minijinja::value::ValueKind;
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Some(value.to_string()),
        _ => None,
    }
}

/// `.Namespace` and `.variables.foo`: Go's spelling of a field, which people write by habit where Flagger has functions.
fn go_field(expression: &str) -> String {
    let field = expression.strip_prefix('.').filter(|field| field.starts_with(|c: char| c.is_ascii_alphabetic()));
    field.map_or_else(|| expression.to_owned(), |field| field[..1].to_ascii_lowercase() + &field[1..])
}

/// `index variables "foo"`, Go's way to a key that is not an identifier.
fn go_index(expression: &str) -> Option<String> {
    let arguments = expression.strip_prefix("index")?.strip_prefix(char::is_whitespace)?.trim_start();
    let (map, key) = arguments.split_once(char::is_whitespace)?;
    let key = key.trim();
    let literal = match key.chars().next()? {
        '`' => format!("\"{}\"", key.trim_matches('`').replace('\\', "\\\\").replace('"', "\\\"")),
        _ => key.to_owned(),
    };
    Some(format!("{}[{literal}]", go_field(map)))
}

fn known(values: &Values<'_>) -> String {
    let mut names = ["namespace", "name", "target", "service", "revision", "interval"].map(str::to_owned).to_vec();
    names.extend(values.variables.keys().map(|key| format!("variables.{key}")));
    names.join(", ")
}

#[cfg(test)]
mod tests {
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
}
