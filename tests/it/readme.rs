//! What the README says of the program, held against the program.

use std::collections::BTreeSet;

use pillarbox::api::ROUTES;
use pillarbox::model::EventKind;

const README: &str = include_str!("../../README.md");

#[test]
fn the_table_of_the_api_has_every_operation_and_no_other() {
    let known: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|route| route.operations.iter().map(|operation| (route.path, operation.method.to_string())))
        .map(|(path, method)| (path.replace("{tenant_id}", "{id}"), method))
        .collect();
    let mut told = BTreeSet::new();
    for row in README.lines().filter(|line| line.starts_with("| `/")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [paths, methods, _] = cells[..] else { panic!("{row}") };
        for path in paths.split(", ").map(|path| path.trim_matches('`')) {
            told.extend(methods.split(' ').map(|method| (path.to_owned(), method.to_owned())));
        }
    }
    let (missing, wrong): (Vec<_>, Vec<_>) =
        (known.difference(&told).collect(), told.difference(&known).collect());
    assert!(missing.is_empty() && wrong.is_empty(), "missing: {missing:?}, wrong: {wrong:?}");
}

#[test]
fn every_kind_of_event_is_named() {
    let (_, rest) = README.split_once("Everything that happens is an event:").unwrap();
    let (list, _) = rest.split_once(". `GET").unwrap();
    let mut told = Vec::new();
    let mut family = "";
    for name in list.split('`').skip(1).step_by(2) {
        match name.split_once('.') {
            Some(("", kind)) => told.push(format!("{family}.{kind}")),
            Some((group, _)) => {
                family = group;
                told.push(name.to_owned());
            }
            None => panic!("{name}"),
        }
    }
    let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    assert_eq!(told, known);
}
