use super::*;

fn key(service: &str, port: u16) -> RouteKey {
    RouteKey { service: service.to_owned(), port, protocol: "TCP".to_owned() }
}

fn entries(name: &str, ports: &[u16]) -> Entries {
    Entries {
        canary: name.to_owned(),
        deployment: name.to_owned(),
        service: name.to_owned(),
        ports: ports.iter().map(|port| key(name, *port)).collect(),
        avoid: BTreeSet::new(),
    }
}

fn live(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn read(data: &[(&str, &str)]) -> Table {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Table::parse(Some(&ConfigMap { data: Some(data), ..ConfigMap::default() }))
}

fn two() -> Table {
    let live = live(&["web", "api"]);
    let one = Table::default().with(&live, &entries("web", &[80, 9000])).unwrap();
    one.with(&live, &entries("api", &[80])).unwrap()
}

#[test]
fn the_data_is_what_the_policies_look_up() {
    let data: Vec<_> = two().data().into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        data,
        [
            "held.api=api",
            "held.web=web",
            "owner.api=api",
            "owner.web=web",
            "route.api.80.TCP=15002",
            "route.web.80.TCP=15000",
            "route.web.9000.TCP=15001",
        ]
    );
}

#[test]
fn what_is_written_is_read_back() {
    let table = two().released("web");
    assert!(!table.draining.is_empty());
    assert_eq!(Table::parse(Some(&ConfigMap { data: Some(table.data()), ..ConfigMap::default() })), table);
}

#[test]
fn a_key_that_exists_keeps_its_port() {
    let live = live(&["web", "api"]);
    let wider = two().with(&live, &entries("web", &[70, 80, 9000])).unwrap();
    assert_eq!(wider.port(&key("web", 80)), Some(15_000));
    assert_eq!(wider.port(&key("web", 9000)), Some(15_001));
    assert_eq!(wider.port(&key("web", 70)), Some(15_003));
    assert_eq!(wider.port(&key("api", 80)), Some(15_002));
}

#[test]
fn a_port_that_the_service_lost_is_given_back() {
    let live = live(&["web", "api", "new"]);
    let narrower = two().with(&live, &entries("web", &[9000])).unwrap();
    assert_eq!(narrower.port(&key("web", 80)), None);
    assert_eq!(narrower.with(&live, &entries("new", &[1])).unwrap().port(&key("new", 1)), Some(15_000));
}

#[test]
fn a_port_is_neither_given_twice_nor_one_of_the_services_own_targets() {
    let avoiding = Entries { avoid: BTreeSet::from([15_003, 15_004]), ..entries("new", &[1]) };
    let table = two().with(&live(&["web", "api", "new"]), &avoiding).unwrap();
    assert_eq!(table.port(&key("new", 1)), Some(15_005));
    let read = read(&[("route.a.1.TCP", "15000"), ("route.b.1.TCP", "15000"), ("draining.c.1.TCP", "15000")]);
    assert_eq!(read.routes.len() + read.draining.len(), 1);
}

#[test]
fn the_range_is_given_out_to_its_end_and_then_refused() {
    let all: Vec<u16> = (1..=10_000).collect();
    let full = Table::default().with(&live(&["big", "web"]), &entries("big", &all)).unwrap();
    assert_eq!(full.routes.values().max(), Some(&24_999));
    assert_eq!(full.with(&live(&["big", "web"]), &entries("web", &[80])), Err(Refusal::Full));
}

#[test]
fn entries_that_cannot_be_read_are_left_out() {
    let bad = [
        ("route.web.80", "15000"),
        ("route.web.80.TCP", "14999"),
        ("route.web.81.TCP", "25000"),
        ("route.web.82.TCP", "x"),
        ("route..83.TCP", "15000"),
        ("route.web.99999.TCP", "15000"),
        ("other", "15000"),
    ];
    assert!(read(&bad).is_empty());
}

#[test]
fn what_belongs_to_another_canary_is_refused_by_name() {
    let live = live(&["web", "api", "late"]);
    let taken = |what: &str| Err(Refusal::Taken { what: what.to_owned(), by: "web".to_owned() });
    let late = Entries { canary: "late".to_owned(), ..entries("web", &[80]) };
    assert_eq!(two().with(&live, &late), taken("Deployment web"));
    let late = Entries { deployment: "late".to_owned(), ..late };
    assert_eq!(two().with(&live, &late), taken("Service web"));
}

#[test]
fn entries_of_a_canary_that_is_gone_are_dropped() {
    let table = two().with(&live(&["api"]), &entries("api", &[80])).unwrap();
    assert_eq!(table.held.keys().collect::<Vec<_>>(), ["api"]);
    assert_eq!(table.routes.keys().collect::<Vec<_>>(), [&key("api", 80)]);
}

#[test]
fn a_released_port_is_served_but_no_longer_handed_out() {
    let released = two().released("web");
    assert_eq!(released.routes.len(), 1);
    assert_eq!(released.port(&key("web", 80)), Some(15_000));
    assert!(!released.held.contains_key("web"));
    let new = released.with(&live(&["web", "api", "new"]), &entries("new", &[1])).unwrap();
    assert_eq!(new.port(&key("new", 1)), Some(15_003));
    let forgotten = released.forgotten("web");
    assert_eq!(forgotten.port(&key("web", 80)), None);
    assert!(forgotten.forgotten("api").is_empty());
}

#[test]
fn a_refused_canary_releases_nothing_of_the_others() {
    assert_eq!(two().forgotten("late"), two());
}

#[test]
fn a_canary_that_comes_back_while_draining_gets_its_port_again() {
    let again = two().released("web").with(&live(&["web", "api"]), &entries("web", &[80, 9000])).unwrap();
    assert_eq!(again, two());
}
