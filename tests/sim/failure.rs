//! What a person reads who looks into a run that has failed: what is wrong, what happened to the message, and what is stored of it.

use std::collections::BTreeSet;

use crate::stored;
use crate::world::World;

/// Words that name one thing.
const NAMES: [&str; 7] = ["msg_", "dlv_", "evt_", "tnt_", "dom_", "key_", "of-tenant-"];
/// Lines of the process, which tell when it was away.
const OF_LIFE: [&str; 4] = ["life ", "started", "stopped", "crashed"];
/// Violations that are explained; the others follow from the same cause or have one of their own.
const EXPLAINED: usize = 1;

pub fn describe(world: &World) -> String {
    let violations = world.violations.lock().unwrap();
    let lines = world.trace.lines();
    let mut names: BTreeSet<&str> =
        violations.iter().take(EXPLAINED).flat_map(|line| names_in(line)).collect();
    // A message has the name of its client, too, and its id.
    for _ in 0..2 {
        let about: Vec<&String> = lines.iter().filter(|line| is_acknowledgement(line, &names)).collect();
        names.extend(about.into_iter().flat_map(|line| names_in(line)).filter(|name| !name.contains('@')));
    }
    let mut text = String::from("What is wrong:\n");
    violations
        .iter()
        .for_each(|violation| text += &format!("  {}\n", violation.lines().next().unwrap_or_default()));
    text += "What happened (all that happened: --trace):\n";
    for line in lines.iter().filter(|line| is_about(line, &names)) {
        text += &format!("  {line}\n");
    }
    for message in names.iter().filter(|name| name.starts_with("msg_")) {
        text +=
            &format!("What is stored of {message}:\n{}\n", stored::describe(&world.config.data_dir, message));
    }
    text
}

fn is_acknowledgement(line: &str, names: &BTreeSet<&str>) -> bool {
    line.contains(" acknowledged as ") && names.iter().any(|name| has_word(line, name))
}

fn is_about(line: &str, names: &BTreeSet<&str>) -> bool {
    let what = line.split_once(' ').map_or(line, |(_, what)| what);
    OF_LIFE.iter().any(|begin| what.starts_with(begin)) || names.iter().any(|name| has_word(line, name))
}

fn names_in(line: &str) -> impl Iterator<Item = &str> {
    words(line).filter(|word| word.contains('@') || NAMES.iter().any(|name| word.starts_with(name)))
}

fn has_word(line: &str, name: &str) -> bool {
    words(line).any(|word| word == name)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && !"_-@.+".contains(c))
        .map(|word| word.trim_end_matches('.'))
}
