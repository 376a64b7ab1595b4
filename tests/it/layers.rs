//! The layering of the crate: which module may import which. The arrows form a DAG; they stand in `ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What wires the others and so may import all of them, beside what the table says so of.
const ROOTS: [&str; 2] = ["main", "lib"];

/// What layer 3 and those above may import besides.
const LEAVES: [&str; 5] = ["config", "tls", "telemetry", "clock", "rng"];

/// What the pure layers never touch: no I/O, no clock, no runtime.
const IMPURE: &[&str] =
    &["tokio::", "std::net::Tcp", "std::net::Udp", "std::fs", "rusqlite", "Timestamp::now", "Instant::now"];

/// The modules that decide by time: they get a `Clock` and an `Rng`.
const BY_THE_CLOCK: [&str; 10] = [
    "acme",
    "queue",
    "relay",
    "submission",
    "webhook",
    "verification",
    "maintenance",
    "tls_report",
    "returns",
    "unsubscribe",
];

/// How code gets time and randomness by itself, with imports written out.
const OWN_TIME: &[&str] = &[
    "Timestamp::now",
    "Instant::now",
    ".elapsed()",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::*",
    "tokio::time::Instant",
    "tokio::time::interval",
    "tokio::time::sleep",
    "tokio::time::*",
    "tokio::time::self",
    "rand::",
    "getrandom::",
];

#[test]
fn modules_import_only_what_their_layer_allows() {
    let mut wrong = Vec::new();
    let arrows = arrows();
    for (module, file, text) in sources() {
        let Some(allowed) = arrows.get(&module) else {
            wrong
                .push(format!("{}: `{module}` has no layer; give it one in ARCHITECTURE.md", file.display()));
            continue;
        };
        let Allowed::Only(allowed) = allowed else { continue };
        for target in imports(&text) {
            if target != module && !allowed.contains(&target) {
                wrong.push(format!("{}: `{module}` may not import `{target}`", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_layers_have_no_input_output_and_no_clock() {
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        let is_pure = ["mail", "model", "smtp", "policy", "feedback"].contains(&module.as_str())
            || file.components().any(|part| part.as_os_str() == "checks");
        if !is_pure || is_test_file(&file) {
            continue;
        }
        let code = without_comments(before_tests(&text));
        for impure in IMPURE.iter().filter(|impure| code.contains(*impure)) {
            wrong.push(format!("{}: `{impure}`", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn time_and_randomness_come_in_as_values() {
    let mut wrong = Vec::new();
    for (module, file, text) in sources() {
        if !BY_THE_CLOCK.contains(&module.as_str()) || is_test_file(&file) {
            continue;
        }
        wrong.extend(own_time(before_tests(&text)).map(|own| format!("{}: `{own}`", file.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_to_ask_for_the_time_or_for_randomness_is_found() {
    let found = |text: &str| own_time(text).map(str::to_owned).collect::<Vec<_>>();
    for own in OWN_TIME {
        assert!(found(&format!("fn f() {{ {own} }}")).contains(&(*own).to_owned()), "{own}");
    }
    for group in [
        "use std::time::{Duration, Instant as Moment};",
        "use std::{\n    time::{\n        Duration,\n        SystemTime,\n    },\n};",
        "use tokio::time::{sleep, timeout};",
        "use tokio::{sync::mpsc, time::{self, interval}};",
        "use rand::{RngExt, seq};",
    ] {
        assert!(!found(group).is_empty(), "{group}");
    }
    assert_eq!(
        found(
            "use std::time::Duration;\nuse tokio::time::{timeout, error::Elapsed};\n// Timestamp::now()\nlet brand::X;"
        ),
        [""; 0]
    );
}

#[test]
fn sql_stands_in_the_store_only() {
    let (all, arrows) = (sources(), arrows());
    let is_root = |module: &str| matches!(arrows.get(module), Some(Allowed::All));
    let outside = all.iter().filter(|(module, _, _)| module != "store" && !is_root(module));
    let wrong: Vec<_> =
        outside.filter(|(_, _, text)| text.contains("rusqlite")).map(|(_, file, _)| file).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_table_names_no_module_that_is_not_there() {
    let modules: BTreeSet<String> = sources().into_iter().map(|(module, _, _)| module).collect();
    for (module, allowed) in arrows() {
        let targets = if let Allowed::Only(targets) = allowed { targets } else { BTreeSet::new() };
        for name in targets.iter().chain([&module]) {
            assert!(modules.contains(name), "`{name}` in the row of `{module}`");
        }
    }
}

#[test]
fn every_way_to_write_an_import_is_read() {
    let text = "use crate::mail::{Address, Host};\npub use crate::{\n    smtp::reply, store::{Store, Key},\n};\n\
                // use crate::cli::Comment;\nfn f() -> crate::dns::Resolver { crate :: relay::x() }\n";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["dns", "mail", "relay", "smtp", "store"]);
}

/// What a module may import, besides itself.
enum Allowed {
    All,
    Only(BTreeSet<String>),
}

/// The table of modules in `ARCHITECTURE.md`: layer, modules, what they do, what they import.
fn arrows() -> BTreeMap<String, Allowed> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(document).unwrap();
    let (_, rest) = text.split_once("\n## The map\n").unwrap();
    let (map, _) = rest.split_once("\n## ").unwrap();
    let mut arrows: BTreeMap<_, _> = ROOTS.map(|root| (root.to_owned(), Allowed::All)).into();
    for row in map.lines().filter(|line| line.contains("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [layer, modules, _, imports] = cells[..] else { panic!("{row}") };
        let names = |cell: &str| -> BTreeSet<String> {
            cell.split(['`', ',', ' ']).filter(|name| !["", "–"].contains(name)).map(str::to_owned).collect()
        };
        for module in names(modules) {
            let mut allowed = names(imports);
            if layer.parse().is_ok_and(|layer: u8| layer >= 3) {
                allowed.extend(LEAVES.map(str::to_owned));
            }
            let allowed = if imports == "all" { Allowed::All } else { Allowed::Only(allowed) };
            assert!(arrows.insert(module, allowed).is_none(), "{row}");
        }
    }
    arrows
}

/// Each source file: its top module, its path, its text.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "the sources are where they were");
    files
        .into_iter()
        .map(|file| {
            let relative = file.strip_prefix(&root).unwrap();
            let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            (module, file, text)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The top modules that a text names with `crate::`, in a path or in a group.
fn imports(text: &str) -> BTreeSet<String> {
    let text: String = without_comments(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace(" ::", "::").replace(":: ", "::");
    let mut found = BTreeSet::new();
    for (at, matched) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + matched.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_members(group).iter().filter_map(|member| module_of(member))),
            None => found.extend(module_of(rest)),
        }
    }
    found
}

/// Where a text gets time or randomness by itself.
fn own_time(text: &str) -> impl Iterator<Item = &'static str> {
    let text: String = without_comments(text).split_whitespace().collect::<Vec<_>>().join(" ");
    let imports = text.split("use ").skip(1).filter_map(|import| Some(import.split_once(';')?.0));
    let mut written_out = Vec::new();
    imports.for_each(|import| write_out("", import, &mut written_out));
    let text = format!(" {text} {} ", written_out.join(" "));
    OWN_TIME.iter().copied().filter(move |own| {
        text.match_indices(own).any(|(at, _)| {
            // `rand::` is no part of another name.
            !own.starts_with("rand") || !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    })
}

/// The paths that an import names, one for each member of its groups.
fn write_out(path: &str, import: &str, paths: &mut Vec<String>) {
    match import.split_once('{') {
        Some((prefix, group)) => {
            let path = format!("{path}{}", prefix.trim());
            group_members(group).iter().for_each(|member| write_out(&path, member, paths));
        }
        None => paths.push(format!("{path}{}", import.trim())),
    }
}

/// The members of a group of imports, whose opening brace is behind us.
fn group_members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                members.push(group[start..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(group[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    members
}

/// The first segment of a path, if it is a module: modules are lower case, and a macro is no module.
fn module_of(path: &str) -> Option<String> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let is_module = name.starts_with(|c: char| c.is_ascii_lowercase()) && !rest.starts_with('!');
    is_module.then(|| name.to_owned())
}

/// Whether a file belongs to the tests of a module.
fn is_test_file(file: &Path) -> bool {
    file.components().any(|part| ["tests", "tests.rs"].iter().any(|name| part.as_os_str() == *name))
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// Tests of a pure module may use what the module may not.
fn before_tests(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code)
}
