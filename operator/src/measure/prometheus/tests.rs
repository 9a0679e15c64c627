use super::*;

const NOW: f64 = 1_000_000.0;

fn success(kind: &str, result: &str) -> String {
    format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
}

fn one(number: &str) -> String {
    success("vector", &format!(r#"[{{"metric":{{}},"value":[999999.5,"{number}"]}}]"#))
}

fn reading(status: u16, body: &str) -> Result<f64, Problem> {
    single(&read(status, body.as_bytes(), NOW)?)
}

#[test]
fn a_single_finite_number_is_read() {
    assert_eq!(reading(200, &one("0.25")), Ok(0.25));
    assert_eq!(reading(200, &one("-0")), Ok(0.0));
    assert_eq!(reading(200, &one("1e308")), Ok(1e308));
    assert_eq!(reading(200, &success("scalar", r#"[1000000,"7"]"#)), Ok(7.0));
    let warned = r#"{"status":"success","warnings":["w"],"data":{"resultType":"scalar","result":[1000000,"7"]}}"#;
    assert_eq!(reading(200, warned), Ok(7.0));
}

#[test]
fn every_other_answer_is_told_apart_and_explained() {
    let two = success("vector", r#"[{"metric":{"a":"1"},"value":[1e6,"1"]},{"metric":{"a":"2"},"value":[1e6,"2"]}]"#);
    let error = |kind: &str, text: &str| format!(r#"{{"status":"error","errorType":"{kind}","error":"{text}"}}"#);
    let parse = r#"invalid parameter \"query\": 1:5: parse error: unexpected end of input"#;
    type Case<'a> = (&'a str, u16, String, fn(String) -> Problem, &'a str);
    let cases: Vec<Case<'_>> = vec![
        ("empty vector", 200, success("vector", "[]"), Problem::NoData, "no result at present"),
        ("NaN", 200, one("NaN"), Problem::NoData, "expected one finite number"),
        ("+Inf", 200, one("+Inf"), Problem::Unusable, "answered +Inf; expected one finite number"),
        ("-Inf", 200, one("-Inf"), Problem::Unusable, "answered -Inf"),
        ("1e999", 200, one("1e999"), Problem::Unusable, "answered +Inf"),
        ("two series", 200, two, Problem::Unusable, "2 series as its result; expected exactly one"),
        ("string", 200, success("string", r#"[1000000,"hi"]"#), Problem::Unusable, "a string as its result"),
        ("matrix", 200, success("matrix", "[]"), Problem::Unusable, "(matrix)"),
        ("new type", 200, success("tensor", "[]"), Problem::Unusable, "result type"),
        ("word", 200, one("many"), Problem::Unusable, "not a pair of time and number"),
        ("number not quoted", 200, success("scalar", "[1000000,7]"), Problem::Unusable, "not a pair"),
        (
            "value of one",
            200,
            success("vector", r#"[{"metric":{},"value":[1000000]}]"#),
            Problem::Unusable,
            "not a pair",
        ),
        ("value of none", 200, success("vector", r#"[{"metric":{},"value":[]}]"#), Problem::Unusable, "not a pair"),
        ("value of three", 200, success("scalar", r#"[1000000,"1","2"]"#), Problem::Unusable, "not a pair"),
        ("no value", 200, success("vector", r#"[{"metric":{}}]"#), Problem::Unusable, "not a pair"),
        ("element not an object", 200, success("vector", "[7]"), Problem::Unusable, "not a pair"),
        ("vector not an array", 200, success("vector", "7"), Problem::Unusable, "result type"),
        ("null", 200, success("vector", "null"), Problem::Unusable, "result type"),
        (
            "histogram",
            200,
            success("vector", r#"[{"metric":{},"histogram":[1000000,{}]}]"#),
            Problem::Unusable,
            "a histogram",
        ),
        ("no data", 200, r#"{"status":"success"}"#.to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
        ("other JSON", 200, "[]".to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
        ("nothing", 200, String::new(), Problem::Unusable, "not the JSON of a Prometheus"),
        ("cut short", 200, one("1")[..40].to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
        ("HTML", 200, "\n<!doctype html><p>Sign in".to_owned(), Problem::Unusable, "web page; expected the JSON"),
        ("old", 200, success("scalar", r#"[999900,"1"]"#), Problem::Unreachable, "100 s old; expected at most 30 s"),
        ("ahead", 200, success("scalar", r#"[1000100,"1"]"#), Problem::Unreachable, "100 s ahead of our clock"),
        (
            "parse error",
            400,
            error("bad_data", parse),
            Problem::Unusable,
            "does not parse: 1:5: parse error: unexpected end",
        ),
        ("error with secrets", 400, error("bad_data", "password=hunter2"), Problem::Unusable, "does not parse"),
        (
            "many to many",
            422,
            error("execution", "found duplicate series"),
            Problem::Unusable,
            "labels match one to one",
        ),
        ("too slow", 503, error("timeout", "query timed out"), Problem::Unreachable, "took too long"),
        ("starting", 503, error("unavailable", "starting up"), Problem::Unreachable, "just now"),
        ("error under 200", 200, error("bad_data", parse), Problem::Unusable, "1:5: parse error"),
        ("success under 500", 500, one("1"), Problem::Unreachable, "status 500"),
        ("404", 404, "not found".to_owned(), Problem::Unusable, "/api/v1/query below its address"),
        ("401", 401, "who?".to_owned(), Problem::Unusable, "access was refused"),
        ("500", 500, "boom".to_owned(), Problem::Unreachable, "status 500"),
        ("502 of a proxy", 502, "<html>".to_owned(), Problem::Unreachable, "status 502"),
        ("429", 429, String::new(), Problem::Unreachable, "status 429"),
    ];
    for (name, status, body, kind, expected) in cases {
        let problem = reading(status, &body).expect_err(name);
        let why = match &problem {
            Problem::NoData(why) | Problem::Unusable(why) | Problem::Unreachable(why) => why.clone(),
        };
        assert_eq!(problem, kind(why.clone()), "{name}");
        assert!(why.contains(expected), "{name}: {why}");
        assert!(!why.contains("hunter2") && !why.contains("duplicate"), "{name} repeats the body: {why}");
    }
    let garbage = read(200, &[0xff, 0xfe, b'{'], NOW);
    assert!(matches!(garbage, Err(Problem::Unusable(_))), "not UTF-8: {garbage:?}");
    let deep = "[".repeat(200_000);
    assert!(matches!(read(200, deep.as_bytes(), NOW), Err(Problem::Unusable(_))), "nested without end");
}

#[test]
fn addresses_keep_their_path_prefix() {
    let path = |address| endpoint(address).map(|url| url.to_string()).map_err(|error| error.to_string());
    assert_eq!(path("http://p:9090"), Ok("http://p:9090/api/v1/query".to_owned()));
    assert_eq!(path("https://p/prometheus/"), Ok("https://p/prometheus/api/v1/query".to_owned()));
    assert!(path("http://p/?tenant=1").is_err());
}
