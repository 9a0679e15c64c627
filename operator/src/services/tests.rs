use super::{
    fixtures::{mk_plain, mk_routed},
    *,
};

fn table() -> Table {
    Table::rebuild([&mk_routed()])
}

#[test]
fn a_routed_service_asks_for_what_the_plain_one_did() {
    let plain = asked(&mk_plain());
    assert_eq!(asked(&mk_routed()), Asked { routed: true, ..plain.clone() });
    assert_eq!(plain.selector, BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    assert_eq!(plain.ports[0].target, IntOrString::String("http".to_owned()));
    assert_eq!(plain.ports[1].target, IntOrString::Int(9000));
}

#[test]
fn notes_on_a_service_that_is_not_routed_are_not_believed() {
    let mut service = mk_plain();
    service.metadata.annotations = mk_routed().metadata.annotations.map(|mut notes| {
        notes.insert(ANNOTATION_SELECTOR.to_owned(), "app=other".to_owned());
        notes.insert(ANNOTATION_TARGET_PORTS.to_owned(), "80/TCP=evil".to_owned());
        notes
    });
    assert_eq!(asked(&service), asked(&mk_plain()));
}

#[test]
fn a_lost_note_falls_back_to_the_port_and_never_to_the_pool() {
    let mut service = mk_routed();
    service.metadata.annotations = None;
    let asked = asked(&service);
    assert!(asked.selector.is_empty());
    assert_eq!(asked.ports[0].target, IntOrString::Int(80));
}

#[test]
fn a_label_value_may_hold_an_equals_sign_of_its_own_only_once() {
    let entries: Vec<_> = pairs("a=b,junk,c=,d=e=f").collect();
    assert_eq!(entries, [("a", "b"), ("c", ""), ("d", "e=f")]);
}

#[test]
fn the_table_is_rebuilt_from_what_routed_services_show() {
    let ports: Vec<_> = table().routes.into_iter().map(|(key, port)| format!("{key}={port}")).collect();
    assert_eq!(ports, ["web.80.TCP=15000", "web.9000.TCP=15001"]);
    assert!(Table::rebuild([&mk_plain()]).is_empty());
}

#[test]
fn routed_means_each_port_by_the_table() {
    assert!(is_routed(&mk_routed(), &table()));
    assert!(!is_routed(&mk_plain(), &table()));
    let mut moved = table();
    moved.routes.values_mut().for_each(|port| *port += 10);
    assert!(!is_routed(&mk_routed(), &moved));
    let mut added = mk_routed();
    let port = ServicePort { port: 81, target_port: Some(IntOrString::Int(81)), ..ServicePort::default() };
    added.spec.as_mut().unwrap().ports.as_mut().unwrap().push(port);
    assert!(!is_routed(&added, &table()));
}

#[test]
fn a_routed_service_without_entries_is_a_stray() {
    assert!(is_stray(&mk_routed(), &Table::default()));
    assert!(!is_stray(&mk_routed(), &table()));
    assert!(!is_stray(&mk_plain(), &Table::default()));
}
