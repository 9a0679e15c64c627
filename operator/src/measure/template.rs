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
mod tests;
