//! What README and the pages under `/docs` say of the program, held against the program: tables, commands, links,
//! options. No prose is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;
use pillarbox::api::ROUTES;
use pillarbox::cli::Arguments;
use pillarbox::model::{BounceClass, EventKind, RefusalCode, Scope};

use crate::api_stage::ApiStage;
use crate::http::request;

const README: &str = include_str!("../../README.md");
const SAMPLE_CONFIG: &str = include_str!("../../config/pillarbox.toml");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown of each page by its name.
fn pages() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(repository().join("src/docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let pages: BTreeMap<_, _> = pages
        .map(|file| {
            (file.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(pages.len() > 10, "the pages are where they were");
    pages
}

/// README and all pages, by name.
fn documents() -> BTreeMap<String, String> {
    let mut all = pages();
    all.insert("README".into(), README.into());
    all
}

fn page(name: &str) -> String {
    pages().remove(name).unwrap_or_else(|| panic!("no page {name}"))
}

/// The cells of each row whose first cell is code.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What the first cells of the rows under a heading name.
fn names_under(page: &str, heading: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    rows(section).iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

/// The lines of all code blocks in this language, those that end with `\` joined to the next.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let (mut lines, mut is_inside, mut is_wanted) = (Vec::new(), false, false);
    for line in text.lines() {
        if let Some(info) = line.strip_prefix("```") {
            is_inside = !is_inside;
            is_wanted = is_inside && info == language;
        } else if is_wanted {
            lines.push(line);
        }
    }
    lines.join("\n").replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// What stands between single backticks, outside of blocks.
fn inline_code(text: &str) -> Vec<String> {
    let outside: String = text.split("\n```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What clap says against the arguments of a command.
fn refusal(command: &str) -> Option<ErrorKind> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("{command}"));
    let end = words.iter().position(|word| ["|", ">", "&&", ";"].contains(&word.as_str()));
    let words = &words[..end.unwrap_or(words.len())];
    Arguments::command().try_get_matches_from(words).err().map(|error| error.kind())
}

/// Whether the shell takes what follows for a command.
fn begins_command(before: &str) -> bool {
    let before = before.trim_end();
    before.is_empty() || before.ends_with("sudo") || before.ends_with('|')
}

#[test]
fn readme_has_at_most_150_lines() {
    assert!(README.lines().count() <= 150, "{}", README.lines().count());
}

#[test]
fn the_table_of_the_api_has_every_operation_and_no_other() {
    let known: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|route| route.operations.iter().map(|operation| (route.path, operation.method.to_string())))
        .map(|(path, method)| (path.replace("{tenant_id}", "{id}"), method))
        .collect();
    let mut told = BTreeSet::new();
    for row in rows(&page("api")).iter().filter(|row| row[0].starts_with("`/")) {
        let [paths, methods, _] = &row[..] else { panic!("{row:?}") };
        for path in paths.split(", ").map(|path| path.trim_matches('`')) {
            told.extend(methods.split(' ').map(|method| (path.to_owned(), method.to_owned())));
        }
    }
    let (missing, wrong): (Vec<_>, Vec<_>) =
        (known.difference(&told).collect(), told.difference(&known).collect());
    assert!(missing.is_empty() && wrong.is_empty(), "missing: {missing:?}, wrong: {wrong:?}");
}

#[test]
fn the_tables_have_every_type_of_event_class_scope_and_refusal_and_no_other() {
    let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names_under(&page("events"), "## Event types"), known);
    let known: Vec<_> = BounceClass::ALL.iter().map(|class| class.as_str()).collect();
    assert_eq!(names_under(&page("bounces"), "## Classes"), known);
    let known: Vec<_> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    assert_eq!(names_under(&page("api"), "## Scopes"), known);
    let known: BTreeSet<_> = RefusalCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    let rows = rows(&page("errors"));
    let told: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(told, known);
    assert_eq!(rows.len(), told.len(), "a code is listed twice");
}

#[test]
fn every_command_of_the_documents_is_one_that_the_program_takes() {
    let mut seen = 0;
    for (name, text) in documents() {
        for line in blocks(&text, "sh") {
            let Some(at) = line.find("pillarbox ").filter(|at| begins_command(&line[..*at])) else {
                continue;
            };
            assert_eq!(refusal(&line[at..]), None, "{name}: {line}");
            seen += 1;
        }
        for code in inline_code(&text).iter().filter(|code| code.starts_with("pillarbox ")) {
            use ErrorKind::{
                DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand,
            };
            let is_name_of_command = |kind: ErrorKind| {
                [DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand]
                    .contains(&kind)
            };
            assert!(refusal(code).is_none_or(is_name_of_command), "{name}: {code}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_path_of_the_api_in_the_documents_exists() {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "/_-{}…$".contains(c));
    let mut seen = 0;
    for (name, text) in documents() {
        for (at, _) in text.match_indices("/v1/") {
            let path = text[at..].split(is_end).next().unwrap();
            let segments: Vec<_> = path.split('/').collect();
            let is_route = |route: &str| {
                let own: Vec<_> = route.split('/').collect();
                let is_same = |(own, told): (&&str, &&str)| own.starts_with('{') || own == told;
                own.len() == segments.len() && own.iter().zip(&segments).all(is_same)
            };
            assert!(ROUTES.iter().any(|route| is_route(route.path)), "{name}: {path}");
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn every_option_that_the_documents_name_exists() {
    let mut options = BTreeSet::new();
    let mut table = String::new();
    for line in SAMPLE_CONFIG.lines().map(|line| line.trim_start_matches("# ")) {
        if line.starts_with('[') && line.ends_with(']') {
            line.trim_matches(['[', ']']).clone_into(&mut table);
            options.insert(table.clone());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            options.insert(if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    let tables: BTreeSet<_> =
        options.iter().filter_map(|option| option.split_once('.')).map(|(table, _)| table).collect();
    let mut seen = 0;
    for (name, text) in documents() {
        for code in inline_code(&text) {
            let option = code.split(" = ").next().unwrap();
            let is_option = option.split_once('.').is_some_and(|(table, _)| tables.contains(table));
            // An event of a domain looks like an option of the table `domains`, a file like one of `tls`; these do not.
            if is_option && option.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_') {
                assert!(options.contains(option), "{name}: {option}");
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

/// Each `attribute="value"` of a page.
fn attributes<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let marks = format!(" {attribute}=\"");
    html.split(marks.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn every_page_is_served_without_a_key_and_every_link_leads_somewhere() {
    let stage = ApiStage::start().await;
    let get = async |path: &str| {
        let answer = request(stage.address, "GET", path, None, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer}");
        let is_strict = answer
            .header("content-security-policy")
            .is_some_and(|policy| policy.contains("default-src 'none'"));
        assert!(is_strict || path == "/openapi.json", "{path}");
        String::from_utf8(answer.body).unwrap()
    };
    let mut served = BTreeMap::from([("/openapi.json".to_owned(), get("/openapi.json").await)]);
    served.insert("/docs".into(), get("/docs").await);
    for name in pages().keys() {
        let path = format!("/docs/{name}");
        let html = get(&path).await;
        assert!(!html.contains("<script"), "{path}");
        served.insert(path, html);
    }
    let index = attributes(&served["/docs"], "href");
    for name in pages().keys() {
        assert!(index.contains(&format!("docs/{name}").as_str()), "the index has no {name}");
    }
    let mut seen = 0;
    for (path, html) in &served {
        let ids = attributes(html, "id");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{path} has an id twice");
        let base = url::Url::parse(&format!("http://host{path}")).unwrap();
        for link in attributes(html, "href").into_iter().filter(|link| !link.starts_with("https://")) {
            let target = base.join(link).unwrap();
            let there = served.get(target.path()).unwrap_or_else(|| panic!("{path}: {link}"));
            let anchor = target.fragment().unwrap_or_default();
            assert!(anchor.is_empty() || attributes(there, "id").contains(&anchor), "{path}: {link}");
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
    let absent = request(stage.address, "GET", "/docs/nowhere", None, None).await;
    absent.expect_error(404, "not_found");
}

#[tokio::test]
async fn the_page_of_the_configuration_has_every_option() {
    let stage = ApiStage::start().await;
    let answer = request(stage.address, "GET", "/docs/config", None, None).await;
    let html = String::from_utf8(answer.body).unwrap().replace("&quot;", "\"");
    for line in SAMPLE_CONFIG.lines().filter(|line| line.contains(" = ") || line.starts_with('[')) {
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        assert!(html.contains(&line), "{line}");
    }
}

#[test]
fn links_of_readme_lead_to_files_and_headings() {
    let mut seen = 0;
    for link in README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        if link.starts_with("https://") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let text = match file {
            "" => README.to_owned(),
            file => std::fs::read_to_string(repository().join(file)).unwrap_or_else(|_| panic!("{link}")),
        };
        let anchors = text.lines().filter(|line| line.starts_with('#')).map(|line| {
            let kept = line.trim_start_matches('#').trim().chars();
            let kept = kept.filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
            kept.to_lowercase().replace(' ', "-")
        });
        assert!(anchor.is_empty() || anchors.into_iter().any(|own| own == anchor), "{link}");
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}
