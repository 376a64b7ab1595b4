//! Compares what README, ARCHITECTURE and the pages under `/docs` say with the program: tables, commands, paths, options,
//! names, files, links. Prose is not read. The documents are read from the disk, so an edit needs no build to be tested.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::CommandFactory;
use clap::error::ErrorKind;
use pillarbox::api::ROUTES;
use pillarbox::cli::Arguments;
use pillarbox::config::Config;
use pillarbox::doctor::CHECKS;
use pillarbox::model::{BounceClass, EventKind, RefusalCode, Scope};
use serde_json::Value;

use crate::api_stage::ApiStage;
use crate::http::request;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    let path = repository().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sample_config() -> String {
    read("config/pillarbox.toml")
}

/// The Markdown of each page by its name.
fn pages() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(repository().join("src/docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    let pages: BTreeMap<_, _> =
        pages.map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), read(file))).collect();
    assert!(pages.len() > 10, "src/docs has {} pages", pages.len());
    pages
}

/// README and all pages, by name.
fn documents() -> BTreeMap<String, String> {
    let mut all = pages();
    all.insert("README".into(), read("README.md"));
    all
}

fn page(name: &str) -> String {
    pages().remove(name).unwrap_or_else(|| panic!("no page {name}"))
}

/// The cells of each table row whose first cell is code.
fn rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The first cells of the table rows under a heading.
fn names_under(page: &str, heading: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    rows(section).iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

/// The text of each code block in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let inside = text.split("\n```").skip(1).step_by(2);
    let wanted = inside.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    wanted.map(str::to_owned).collect()
}

/// The shell commands of all code blocks, one a line.
fn shell_lines(text: &str) -> Vec<String> {
    let text = blocks(text, "sh").join("\n").replace("\\\n", " ");
    text.lines().map(str::to_owned).collect()
}

/// The code between single backticks, outside of code blocks.
fn inline_code(text: &str) -> Vec<String> {
    let outside: String = text.split("\n```").step_by(2).collect();
    outside.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The error of clap for the arguments of a command.
fn refusal(command: &str) -> Option<ErrorKind> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("{command}"));
    let end = words.iter().position(|word| ["|", ">", "&&", ";"].contains(&word.as_str()));
    let words = &words[..end.unwrap_or(words.len())];
    Arguments::command().try_get_matches_from(words).err().map(|error| error.kind())
}

/// Whether the shell reads the word after `before` as a command.
fn begins_command(before: &str) -> bool {
    let before = before.trim_end();
    before.is_empty() || before.ends_with("sudo") || before.ends_with('|')
}

#[test]
fn readme_has_at_most_150_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 150, "{lines}");
}

#[test]
fn the_table_of_the_api_has_every_operation_and_no_other() {
    let known: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|route| route.operations.iter().map(|operation| (route.path, operation.method.to_string())))
        .map(|(path, method)| (path.replace("{tenant_id}", "{id}"), method))
        .collect();
    let mut documented = BTreeSet::new();
    for row in rows(&page("api")).iter().filter(|row| row[0].starts_with("`/")) {
        let [paths, methods, _] = &row[..] else { panic!("{row:?}") };
        for path in paths.split(", ").map(|path| path.trim_matches('`')) {
            documented.extend(methods.split(' ').map(|method| (path.to_owned(), method.to_owned())));
        }
    }
    let (missing, wrong): (Vec<_>, Vec<_>) =
        (known.difference(&documented).collect(), documented.difference(&known).collect());
    assert!(missing.is_empty() && wrong.is_empty(), "missing: {missing:?}, wrong: {wrong:?}");
}

#[test]
fn the_tables_have_every_type_of_event_class_scope_check_and_refusal_and_no_other() {
    let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names_under(&page("events"), "## Event types"), known);
    let known: Vec<_> = BounceClass::ALL.iter().map(|class| class.as_str()).collect();
    assert_eq!(names_under(&page("bounces"), "## Classes"), known);
    let known: Vec<_> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    assert_eq!(names_under(&page("api"), "## Scopes"), known);
    let known: Vec<_> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(names_under(&page("doctor"), "## Checks"), known);
    let known = RefusalCode::ALL.iter().map(|code| code.as_str().to_owned());
    let known: BTreeSet<_> = known.chain(crate::pages::codes()).collect();
    let rows = rows(&page("errors"));
    let documented: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(documented, known);
    assert_eq!(rows.len(), documented.len(), "a code is documented twice");
}

#[test]
fn the_codes_of_pages_have_the_status_that_is_documented() {
    let rows = rows(&page("errors"));
    let name_of = |status: &str| {
        let status = hyper::StatusCode::from_bytes(status.as_bytes()).unwrap();
        status.canonical_reason().unwrap().to_uppercase().replace(' ', "_")
    };
    for (status, code) in crate::pages::problems() {
        let row =
            rows.iter().find(|row| row[0] == format!("`{code}`")).unwrap_or_else(|| panic!("no {code}"));
        // The status is the third cell from the end, also where the replies of SMTP are not in the table.
        assert_eq!(name_of(&row[row.len() - 3]), status, "{code}");
    }
}

#[test]
fn the_program_accepts_every_command_of_the_documents() {
    let mut seen = 0;
    for (name, text) in documents() {
        for line in shell_lines(&text) {
            let Some(at) = line.find("pillarbox ").filter(|at| begins_command(&line[..*at])) else {
                continue;
            };
            assert_eq!(refusal(&line[at..]), None, "{name}: {line}");
            seen += 1;
        }
        // In prose, `pillarbox key` names a command without its arguments.
        for code in inline_code(&text) {
            let Some(command) = code.trim_start_matches("sudo ").strip_prefix("pillarbox ") else { continue };
            use ErrorKind::{
                DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand,
            };
            let names_command = |kind: ErrorKind| {
                [DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand]
                    .contains(&kind)
            };
            assert!(refusal(&format!("pillarbox {command}")).is_none_or(names_command), "{name}: {code}");
            seen += 1;
        }
        for (_, command) in text.lines().filter_map(|line| line.split_once("cargo run --release -- ")) {
            assert_eq!(refusal(&format!("pillarbox {command}")), None, "{name}: {command}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_path_of_the_api_in_the_documents_exists_and_has_the_method() {
    let is_end = |c: char| !(c.is_ascii_alphanumeric() || "/_-{}…$".contains(c));
    let is_id = |segment: &str| segment.starts_with(['{', '$']) || segment.ends_with('…');
    let mut seen = 0;
    for (name, text) in documents() {
        for (at, _) in text.match_indices("/v1/") {
            let path = text[at..].split(is_end).next().unwrap();
            let segments: Vec<_> = path.split('/').collect();
            let is_route = |route: &str| {
                let own: Vec<_> = route.split('/').collect();
                let fits = |(own, written): (&&str, &&str)| {
                    if own.starts_with('{') { is_id(written) } else { own == written }
                };
                own.len() == segments.len() && own.iter().zip(&segments).all(fits)
            };
            let Some(route) = ROUTES.iter().find(|route| is_route(route.path)) else {
                panic!("{name}: {path}");
            };
            let word =
                text[..at].trim_end_matches(' ').rsplit(|c: char| !c.is_ascii_uppercase()).next().unwrap();
            if ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&word) {
                let has_method = route.operations.iter().any(|operation| operation.method.as_str() == word);
                assert!(has_method, "{name}: {word} {path}");
            }
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen}");
}

/// The options of the configuration, with their tables: `smtp.recipients_max`.
fn options() -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    let mut table = String::new();
    for line in sample_config().lines().map(|line| line.trim_start_matches("# ")) {
        if line.starts_with('[') && line.ends_with(']') {
            line.trim_matches(['[', ']']).clone_into(&mut table);
            options.insert(table.clone());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            options.insert(if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") });
        }
    }
    options
}

/// The options of the sample that no comment is about. A comment is about the options below it, up to an empty line.
fn options_without_comment() -> Vec<String> {
    let (mut table, mut has_comment) = (String::new(), false);
    let mut without = Vec::new();
    for line in sample_config().lines() {
        let bare = line.trim_start_matches("# ");
        if line.is_empty() {
            has_comment = false;
        } else if bare.starts_with('[') && bare.ends_with(']') {
            bare.trim_matches(['[', ']']).clone_into(&mut table);
        } else if let Some((key, _)) = bare.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            if !has_comment {
                without.push(format!("{table}.{key}"));
            }
        } else {
            has_comment = true;
        }
    }
    without
}

#[test]
fn every_option_has_a_sentence_in_a_page_or_in_the_sample() {
    let named: BTreeSet<_> = pages().values().flat_map(|text| inline_code(text)).collect();
    let unexplained: Vec<_> =
        options_without_comment().into_iter().filter(|option| !named.contains(option)).collect();
    assert!(
        unexplained.is_empty(),
        "write a comment above them in config/pillarbox.toml, or name them in a page: {unexplained:?}"
    );
}

/// Names of other programs, files and hosts that have the form of ours.
const FOREIGN_NAMES: &[&str] = &[
    "bounces.acme.com",
    "proxy_timeout",
    "sendmail_path",
    "php.ini",
    "fullchain.pem",
    "privkey.pem",
    "mail.example.com",
    "acme.com",
    "autovacuum_naptime",
    "checkpoint_timeout",
    "default_transaction_read_only",
    "full_page_writes",
    "hot_standby_feedback",
    "max_wal_size",
    "pg_amcheck",
    "pg_basebackup",
    "pg_dump",
    "pool_mode",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_compression",
];
/// Our files that the repository does not have.
const OWN_FILES: &[&str] = &["master.key", "manifest.json", "pillarbox.db"];
/// Fields of the data of events, which the OpenAPI document does not list.
const EVENT_FIELDS: &[&str] = &["reported_recipient", "erasure_id"];
/// Tables that operators of PostgreSQL see.
const TABLES: &[&str] = &["body_piece", "message_search"];
/// Values that templates may use.
const TEMPLATE_VALUES: &[&str] = &["unsubscribe_url"];

#[tokio::test]
async fn every_option_and_every_field_that_the_documents_name_exists() {
    let stage = ApiStage::start().await;
    let answer = request(stage.address, "GET", "/openapi.json", None, None).await;
    let document: Value = serde_json::from_slice(&answer.body).unwrap();
    let mut known = options();
    collect_names(&document, &mut known);
    known.extend(EventKind::ALL.iter().map(|kind| kind.to_string()));
    known.extend(CHECKS.iter().map(|check| check.id.to_owned()));
    known.extend(crate::pages::codes());
    let listed = [FOREIGN_NAMES, OWN_FILES, EVENT_FIELDS, TABLES, TEMPLATE_VALUES].concat();
    known.extend(listed.into_iter().map(str::to_owned));
    // `tests/it/metrics.rs` compares the metrics.
    let is_metric = |name: &str| name.starts_with("pillarbox_") || name.starts_with("process_");
    let is_known = |name: &str| {
        known.contains(name)
            || is_metric(name)
            || name.split_once('.').is_some_and(|(object, field)| {
                ["settings", "rate_limit", "return_path"].contains(&object)
                    && known.contains(object)
                    && known.contains(field)
            })
    };
    let mut seen = 0;
    for (name, text) in documents() {
        for code in inline_code(&text) {
            let word = code.split([' ', '=', ':']).next().unwrap();
            let has_form = word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.contains(['_', '.'])
                && word.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '_');
            if has_form {
                assert!(is_known(word), "{name}: {word}");
                seen += 1;
            }
        }
    }
    assert!(seen > 150, "{seen}");
}

/// The names of fields and parameters, and all values of enumerations.
fn collect_names(document: &Value, names: &mut BTreeSet<String>) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                names.insert(name.clone());
                collect_names(value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_names(value, names)),
        Value::String(text) => drop(names.insert(text.clone())),
        _ => {}
    }
}

#[test]
fn every_file_that_the_documents_name_exists() {
    let mut seen = 0;
    let mut all = documents();
    all.insert("ARCHITECTURE".into(), read("ARCHITECTURE.md"));
    for (name, text) in all {
        for code in inline_code(&text) {
            let is_path = code.contains('/') && !code.contains([' ', '*']);
            let first = code.split('/').next().unwrap();
            if is_path
                && ([".ci", "certs", "config", "src", "systemd", "tests"].contains(&first)
                    || code.ends_with(".rs"))
            {
                let exists = [repository().join(&code), repository().join("src").join(&code)]
                    .iter()
                    .any(|file| file.exists());
                assert!(exists, "{name}: {code}");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn the_configurations_of_the_documents_are_valid_and_the_bodies_are_json() {
    let mut seen = 0;
    for (name, text) in documents() {
        let files =
            text.split("pillarbox.toml <<'END'\n").skip(1).map(|rest| rest.split("\nEND\n").next().unwrap());
        for config in blocks(&text, "toml").into_iter().chain(files.map(str::to_owned)) {
            Config::parse(&config, Path::new(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            seen += 1;
        }
        for line in blocks(&text, "json").iter().flat_map(|block| block.lines()) {
            serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            seen += 1;
        }
        for body in blocks(&text, "sh").iter().flat_map(|block| block.split(" -d '").skip(1)) {
            let body = body.split('\'').next().unwrap();
            serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{name}: {error}: {body}"));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// Each `attribute="value"` of a page.
fn attributes<'a>(html: &'a str, attribute: &str) -> Vec<&'a str> {
    let marks = format!(" {attribute}=\"");
    html.split(marks.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn every_page_is_served_without_a_key_and_every_link_has_a_target() {
    let stage = ApiStage::start().await;
    let get = async |path: &str| {
        let answer = request(stage.address, "GET", path, None, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer}");
        let policy = answer.header("content-security-policy").unwrap_or_default();
        let is_strict =
            policy.contains("default-src 'none'; style-src 'self';") && !policy.contains("unsafe");
        assert!(
            is_strict || !answer.header("content-type").unwrap().starts_with("text/html"),
            "{path}: {policy}"
        );
        String::from_utf8(answer.body).unwrap()
    };
    let mut served = BTreeMap::from([("/openapi.json".to_owned(), get("/openapi.json").await)]);
    served.insert("/docs".into(), get("/docs").await);
    let style = get("/docs/page.css").await;
    assert_eq!(style, read("src/ui/assets/page.css"), "the guide looks as the pages do");
    served.insert("/docs/page.css".into(), style);
    let document: Value = serde_json::from_str(&served["/openapi.json"]).unwrap();
    let documented = &document["paths"]["/docs/page.css"]["get"]["responses"]["200"]["content"];
    assert!(documented["text/css"].is_object(), "{documented}");
    for name in pages().keys() {
        let path = format!("/docs/{name}");
        let html = get(&path).await;
        assert!(!html.contains("<script") && !html.contains("<style"), "{path}");
        assert!(html.contains("<link rel=\"stylesheet\" href=\"page.css\">"), "{path}");
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
        for link in attributes(html, "href").into_iter().filter(|link| {
            // In an example of a template, or elsewhere.
            !link.starts_with("{{") && !link.starts_with("https://")
        }) {
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

/// Pages that other documents, programs and people refer to by name.
const LASTING_PAGES: &[&str] = &[
    "acme", "api", "backup", "bounces", "config", "dns", "doctor", "errors", "events", "metrics", "proxy",
    "sdk", "sending", "upgrade",
];

#[tokio::test]
async fn the_pages_of_the_guide_are_served_under_their_lasting_names() {
    let stage = ApiStage::start().await;
    for name in LASTING_PAGES {
        let answer = request(stage.address, "GET", &format!("/docs/{name}"), None, None).await;
        assert_eq!(answer.status, 200, "{name}");
    }
}

#[tokio::test]
async fn every_code_has_an_anchor_on_the_page_of_errors() {
    let stage = ApiStage::start().await;
    let answer = request(stage.address, "GET", "/docs/errors", None, None).await;
    let html = String::from_utf8(answer.body).unwrap();
    let anchors = attributes(&html, "id");
    for code in RefusalCode::ALL.iter().map(|code| code.as_str().to_owned()).chain(crate::pages::codes()) {
        assert!(anchors.contains(&code.as_str()), "/docs/errors#{code}");
    }
}

#[tokio::test]
async fn the_reference_for_programs_can_be_had_without_aliases() {
    let stage = ApiStage::start().await;
    let get = async |path: &str| request(stage.address, "GET", path, None, None).await;
    let operations = async |path: &str| -> Vec<Value> {
        let document: Value = serde_json::from_slice(&get(path).await.body).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        paths.flat_map(|methods| methods.as_object().unwrap().values().cloned()).collect()
    };
    let is_alias = |operation: &&Value| operation["deprecated"] == true;
    let (all, main) = (operations("/openapi.json").await, operations("/openapi.json?aliases=false").await);
    assert_eq!(operations("/openapi.json?aliases=true").await.len(), all.len());
    let aliases = all.iter().filter(is_alias).count();
    assert!(aliases > 15, "{aliases}");
    assert_eq!(main.len(), all.len() - aliases);
    assert_eq!(main.iter().filter(is_alias).count(), 0);
    get("/openapi.json?aliases=no").await.expect_error(422, "validation_failed");
    get("/openapi.json?alias=false").await.expect_error(422, "validation_failed");
}

#[tokio::test]
async fn the_page_of_the_configuration_has_every_option() {
    let stage = ApiStage::start().await;
    let answer = request(stage.address, "GET", "/docs/config", None, None).await;
    let html = String::from_utf8(answer.body).unwrap().replace("&quot;", "\"");
    for line in sample_config().lines().filter(|line| line.contains(" = ") || line.starts_with('[')) {
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        assert!(html.contains(&line), "{line}");
    }
}

#[test]
fn links_of_readme_have_a_file_and_a_heading() {
    let readme = read("README.md");
    let mut seen = 0;
    for link in readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        if link.starts_with("https://") {
            continue;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let text = if file.is_empty() { readme.clone() } else { read(file) };
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

#[test]
fn the_unit_needs_no_certificate_and_the_drop_in_names_the_options_of_its_files() {
    let loaded = |file: &str| -> Vec<String> {
        let lines = read(file);
        let names = lines.lines().filter_map(|line| line.strip_prefix("LoadCredential="));
        names.map(|name| name.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(loaded("systemd/pillarbox.service"), ["master.key"]);
    let lines = read("systemd/tls.conf");
    let options: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("#   tls.")).collect();
    let config = options.iter().map(|option| format!("tls.{option}\n")).collect::<String>();
    let tls = Config::parse(&config, Path::new("tls.conf")).unwrap().tls;
    let files = [tls.certificate, tls.private_key].map(|file| file.unwrap().display().to_string());
    let copies = loaded("systemd/tls.conf").into_iter();
    let copies: Vec<String> =
        copies.map(|name| format!("/run/credentials/pillarbox.service/{name}")).collect();
    assert_eq!(copies, files);
}
