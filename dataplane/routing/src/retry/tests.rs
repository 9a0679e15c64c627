use super::*;
use crate::split::mix;

fn cover(conditions: &str, failure: Failure, idempotent: bool) -> bool {
    Conditions::parse(conditions).unwrap().cover(failure, idempotent)
}

fn answer(status: u16) -> Failure {
    Failure::Answer { status, grpc_status: None }
}

fn grpc(code: u16) -> Failure {
    Failure::Answer { status: 200, grpc_status: Some(code) }
}

#[test]
fn each_word_covers_what_envoy_says_it_does() {
    use Failure::{Refused, Reset, Timeout, Unreachable};
    let all = [Unreachable, Refused, Reset, Timeout, answer(500), answer(502), answer(503), answer(504), answer(409)];
    for (conditions, wanted) in [
        ("5xx", [1, 1, 1, 1, 1, 1, 1, 1, 0]),
        ("gateway-error", [1, 1, 1, 1, 0, 1, 1, 1, 0]),
        ("connect-failure", [1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("refused-stream", [0, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("reset", [0, 0, 1, 1, 0, 0, 0, 0, 0]),
        ("retriable-4xx", [0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("503, 409", [0, 0, 0, 0, 0, 0, 1, 0, 1]),
        ("retriable-status-codes,500", [0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("unavailable", [0; 9]),
        (DEFAULT_CONDITIONS, [1, 1, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        assert_eq!(all.map(|failure| u8::from(cover(conditions, failure, true))), wanted, "{conditions}");
    }
    for status in [200, 302, 404, 429] {
        assert!(!cover("5xx,gateway-error,reset,retriable-4xx", answer(status), true), "{status}");
    }
}

#[test]
fn what_may_have_had_an_effect_is_not_repeated_unless_the_user_says_so() {
    let everything = "5xx,gateway-error,connect-failure,refused-stream,reset,retriable-4xx,503";
    for failure in [Failure::Reset, Failure::Timeout, answer(503), answer(500), answer(409)] {
        assert!(!cover(everything, failure, false), "{failure:?}");
        assert!(cover(&format!("{everything},non-idempotent"), failure, false), "{failure:?}");
    }
    for failure in [Failure::Unreachable, Failure::Refused] {
        assert!(cover(everything, failure, false), "{failure:?}");
    }
}

#[test]
fn grpc_statuses_are_covered_by_name() {
    for (word, code) in
        [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)]
    {
        let covered: Vec<_> = (0..20).filter(|code| cover(word, grpc(*code), false)).collect();
        assert_eq!(covered, [code], "{word}");
    }
    assert!(!cover("5xx", grpc(14), true), "a grpc-status is no HTTP status");
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let refused = |text: &str| Conditions::parse(text).unwrap_err().to_string();
    assert_eq!(refused("5xx,sometimes"), "retryOn condition \"sometimes\" is not known");
    assert_eq!(refused(""), "retryOn condition \"\" is not known");
    assert_eq!(refused("600"), "retryOn condition \"600\" is not known");
    assert_eq!(refused("retriable-status-codes"), "retryOn names retriable-status-codes, but no code");
}

#[test]
fn a_changed_route_keeps_its_budget() {
    let message = api::Retries { attempts: 2, ..Default::default() };
    let first = Retry::compile(&message, None).unwrap().unwrap();
    let second = Retry::compile(&api::Retries { attempts: 3, ..message.clone() }, Some(&first)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first.budget, &second.budget));
    assert_eq!((second.attempts, second.allowance), (3, Allowance { percent: 20, min_per_second: 10 }));
    assert!(Retry::compile(&api::Retries { attempts: 0, ..message }, None).unwrap().is_none());
}

#[test]
fn the_pause_is_random_and_bounded() {
    for retry in 0..40 {
        let most = Duration::from_millis(25 << retry.min(4)).min(MAX_BACKOFF);
        let pauses: Vec<_> = (0..1_000).map(|seed| Retry::backoff(retry, mix(seed))).collect();
        assert!(pauses.iter().all(|pause| *pause <= most), "{retry}");
        assert!(pauses.iter().any(|pause| *pause > most / 2), "{retry}");
        assert!(pauses.iter().any(|pause| *pause < most / 2), "{retry}");
    }
}
