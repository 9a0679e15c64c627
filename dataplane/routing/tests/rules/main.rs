//! Which rule a request is for, against a model that knows no order of precedence.

mod model;

use model::*;
use proptest::prelude::*;
use proptest::sample::select;

fn some_path() -> impl Strategy<Value = String> {
    (prop::collection::vec(select(&PARTS[..]), 0..3), any::<bool>()).prop_map(|(parts, slash)| path(&parts, slash))
}

fn pairs() -> impl Strategy<Value = Pairs> {
    let pair = (select(&NAMES[..]), select(&VALUES[..]));
    prop_oneof![Just(Vec::new()), prop::collection::vec(pair, 1..4)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let regex = select(&PATTERNS[..]).prop_map(str::to_owned);
    let path = prop_oneof![
        1 => some_path().prop_map(|path| Some((EXACT, path))),
        2 => some_path().prop_map(|path| Some((PREFIX, path))),
        2 => regex.prop_map(|pattern| Some((REGEX, pattern))),
        3 => Just(None),
    ];
    let host = select(&HOSTS[..]);
    let method = select(&METHODS[..]);
    (host, path, method, pairs(), pairs()).prop_map(|(host, path, method, headers, query)| Wanted {
        host,
        path,
        method,
        headers,
        query,
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    (select(&ASKED_METHODS[..]), select(&ASKED_HOSTS[..]), some_path(), pairs(), pairs())
        .prop_map(|(method, host, path, query, headers)| Asked { method, host, path, query, headers })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_rule_that_is_found_is_the_models(
        rules in prop::collection::vec(wanted(), 1..16),
        requests in prop::collection::vec(asked(), 1..16),
    ) {
        prop_assert_eq!(check(&rules, &requests), Ok(()));
    }
}
