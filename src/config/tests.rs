use super::*;

const SAMPLE: &str = include_str!("../../config/pillarbox.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("test.toml")).map_err(|error| error.to_string())
}

#[test]
fn the_sample_shows_the_defaults() {
    assert_eq!(parse(SAMPLE).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());
}

/// Each section of the sample, `[a.b]` or `[[a.b]]`, with its keys, commented out or not.
fn sections_of_the_sample() -> Vec<(String, Vec<&'static str>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    for line in SAMPLE.lines().map(|line| line.trim_start_matches("# ")) {
        if line.starts_with('[') && line.ends_with(']') {
            sections.push((line.to_owned(), Vec::new()));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            sections.last_mut().unwrap().1.push(key);
        }
    }
    sections
}

/// The options of a section, taken from serde's error message for an unknown field.
fn options_of(section: &str) -> Vec<String> {
    let error = parse(&format!("{section}\nno_such_option = 1\n")).unwrap_err();
    let (_, names) = error.split_once("expected").unwrap_or_else(|| panic!("{section}: {error}"));
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_sample_has_every_option() {
    let sections = sections_of_the_sample();
    let mut seen = 0;
    for (section, keys) in &sections {
        let path = section.trim_matches(['[', ']']);
        for option in options_of(section) {
            let inner = if path.is_empty() { option.clone() } else { format!("{path}.{option}") };
            let is_section = sections.iter().any(|(name, _)| name.trim_matches(['[', ']']) == inner);
            assert!(keys.contains(&option.as_str()) || is_section, "{section} has no {option}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_commented_options_of_the_sample_are_valid() {
    let is_option = |line: &str| {
        let line = line.trim_start_matches("# ");
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    };
    let all: String = SAMPLE
        .lines()
        .map(|line| if is_option(line) { line.trim_start_matches("# ") } else { "" })
        .fold(String::new(), |text, line| text + line + "\n");
    let config = parse(&all).unwrap();
    assert!(config.master_key_file.is_some() && config.tls.certificate.is_some());
    assert!(config.relay.smart_host.is_some() && config.relay.source_address.is_some());
    assert!(config.webhooks.ca_file.is_some() && config.acme.ca_file.is_some());
    assert!(config.acme.contact.is_some() && config.acme.eab_key_file.is_some());
    assert!(config.tls_report.organization.is_some() && config.tls_report.mail.is_some());
    assert!(config.domains.spf_include.is_some() && config.relay.ca_file.is_some());
    assert!(config.store.url.is_some() && config.store.password_file.is_some());
    assert!(config.relay.trust_anchor_file.is_some() && !config.relay.tls_minimum.is_empty());
}

#[test]
fn an_error_names_file_line_and_key() {
    for (text, parts) in [
        ("[smtp]\nlisten = 1\n", ["test.toml", "line 2", "unknown field `listen`"]),
        ("[smtp]\nidle_timeout = \"soon\"\n", ["test.toml", "idle_timeout", "write it like 30s"]),
        ("[relay]\nmessage_lifetime = \"99999999h\"\n", ["test.toml", "message_lifetime", "at most 87600h"]),
        (
            "[relay]\nmessage_lifetime = \"300h\"\n",
            ["test.toml", "relay.message_lifetime_max", "at least relay.message_lifetime"],
        ),
        ("[smtp]\nrecipients_max = 0\n", ["test.toml", "smtp.recipients_max", "at least 1"]),
        ("[smtp]\nrecipients_max = 10001\n", ["test.toml", "smtp.recipients_max", "at most 10000"]),
        ("[tls]\ncertificate = \"a\"\n", ["test.toml", "tls", "set both or neither"]),
        (
            "[tls]\ncertificate = \"a\"\nprivate_key = \"b\"\n[acme]\nenabled = true\n",
            ["test.toml", "acme.enabled", "must be false while tls.certificate"],
        ),
        ("hostname = \"mail\"\n[acme]\nenabled = true\n", ["test.toml", "acme.names", "fully qualified"]),
        (
            "hostname = \"a.example\"\n[acme]\nenabled = true\n[public]\nlisten = [\"0.0.0.0:80\"]\nurl = \"https://a.example\"\n",
            ["test.toml", "acme.http_listen", "0.0.0.0:80 of public.listen"],
        ),
        ("[acme]\ndirectory = \"http://ca.example/\"\n", ["test.toml", "acme.directory", "https"]),
        ("[acme]\neab_key_id = \"a\"\n", ["test.toml", "acme.eab_key_file", "acme.eab_key_id"]),
        ("[acme]\ncontact = \"postmaster\"\n", ["test.toml", "acme.contact", "mail address"]),
        ("[acme]\ncontact = \"a@b,c\"\n", ["test.toml", "acme.contact", "mail address"]),
        (
            "[acme]\ndirectory = \"https://user@ca.example/\"\n",
            ["test.toml", "acme.directory", "without user and password"],
        ),
        (
            "hostname = \"a.example\"\n[acme]\nenabled = true\nnames = [\"b.example\"]\n",
            ["test.toml", "acme.names", "must have the hostname"],
        ),
        ("[acme]\nchallenge = \"http-01\"\nhttp_listen = []\n", ["test.toml", "acme.http_listen", "http-01"]),
        ("[[relay.shaping]]\nname = \"x\"\n", ["test.toml", "relay.shaping", "mx or domains"]),
        (
            "[[relay.shaping]]\nname = \"google\"\nconnections_max = 0\n",
            ["test.toml", "relay.shaping", "at least 1"],
        ),
        ("[api]\ncors_origins = [\"*\"]\n", ["test.toml", "api.cors_origins", "as browsers send them"]),
        (
            "[api]\ncors_origins = [\"https://a.example/\"]\n",
            ["test.toml", "api.cors_origins", "as browsers send them"],
        ),
        (
            "[smtp]\nsubmission = [\"[::1]:587\"]\n[api]\nlisten = [\"[::1]:587\"]\n",
            ["test.toml", "api.listen", "[::1]:587 of smtp.submission"],
        ),
        ("[store]\nurl = \"postgres://u:secret@h/d\"\n", ["test.toml", "store.url", "store.password_file"]),
        ("[store]\npassword_file = \"p\"\n", ["test.toml", "store.password_file", "store.url"]),
        ("[store]\ntls_ca_file = \"p\"\n", ["test.toml", "store.tls_ca_file", "encrypted"]),
        ("[store]\nlanes = 17\n", ["test.toml", "store.lanes", "at most 16"]),
        ("hostname = \"a b\"\n", ["test.toml", "hostname", "letters, digits"]),
        ("shutdown_deadline = \"0s\"\n", ["test.toml", "shutdown_deadline", "longer than 0s"]),
        ("handover_deadline = \"0s\"\n", ["test.toml", "handover_deadline", "longer than 0s"]),
        ("[smtp]\nmessage_size_max = \"600 MiB\"\n", ["test.toml", "smtp.message_size_max", "512 MiB"]),
        ("[smtp]\ninbound_buffer_max = \"1 MiB\"\n", ["test.toml", "smtp.inbound_buffer_max", "at least"]),
        (
            "[relay.smart_host]\nhost = \"a\"\nuser = \"b\"\n",
            ["test.toml", "relay.smart_host", "both or neither"],
        ),
    ] {
        let error = parse(text).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}

#[test]
fn an_unusable_value_is_reported_with_its_key() {
    for (section, line, key, part) in [
        ("smtp", "idle_timeout = \"0s\"", "smtp.idle_timeout", "longer"),
        ("smtp", "login_timeout = \"0s\"", "smtp.login_timeout", "longer"),
        ("smtp", "session_timeout = \"0s\"", "smtp.session_timeout", "longer"),
        ("smtp", "session_timeout = \"61m\"", "smtp.session_timeout", "at most 1h"),
        ("api", "request_timeout = \"0s\"", "api.request_timeout", "longer"),
        ("api", "body_max = 0", "api.body_max", "at least 1"),
        ("api", "send_body_max = 0", "api.send_body_max", "at least 1"),
        ("api", "inbound_buffer_max = \"39 MiB\"", "api.inbound_buffer_max", "api.send_body_max"),
        ("api", "body_max = \"1 GiB\"", "api.inbound_buffer_max", "api.body_max"),
        ("domains", "check_interval = \"0s\"", "domains.check_interval", "longer"),
        ("retention", "message_days = 0", "retention.message_days", "at least 1"),
        ("relay", "port = 0", "relay.port", "at least 1"),
        ("relay", "message_lifetime = \"0s\"", "relay.message_lifetime", "longer"),
        ("relay.mta_sts", "port = 0", "relay.mta_sts.port", "at least 1"),
        ("relay.mta_sts", "fetch_timeout = \"0s\"", "relay.mta_sts.fetch_timeout", "longer"),
        ("relay.timeouts", "connect = \"0s\"", "relay.timeouts.connect", "longer"),
        ("relay.timeouts", "greeting = \"0s\"", "relay.timeouts.greeting", "longer"),
        ("relay.timeouts", "command = \"0s\"", "relay.timeouts.command", "longer"),
        ("relay.timeouts", "starttls = \"0s\"", "relay.timeouts.starttls", "longer"),
        ("relay.timeouts", "data = \"0s\"", "relay.timeouts.data", "longer"),
        ("relay.timeouts", "block = \"0s\"", "relay.timeouts.block", "longer"),
        ("relay.timeouts", "final_dot = \"0s\"", "relay.timeouts.final_dot", "longer"),
        ("relay.timeouts", "quit = \"0s\"", "relay.timeouts.quit", "longer"),
        ("webhooks", "timeout = \"0s\"", "webhooks.timeout", "longer"),
        ("webhooks", "plain_http_hosts = [\"Hooks.example\"]", "webhooks.plain_http_hosts", "lower case"),
        ("webhooks", "plain_http_hosts = [\"a.b:8080\"]", "webhooks.plain_http_hosts", "without a port"),
        ("webhooks", "plain_http_hosts = [\"::1\"]", "webhooks.plain_http_hosts", "in brackets"),
        ("tls_report", "delay_max = \"145h\"", "tls_report.delay_max", "at most 144h"),
    ] {
        let error = parse(&format!("[{section}]\n{line}\n")).unwrap_err();
        assert!(error.contains(&format!("{key}: ")) && error.contains(part), "{section} {line}: {error}");
    }
    let right = "[webhooks]\nplain_http_hosts = [\"hooks.example\", \"[::1]\", \"127.0.0.1\"]\n\
                 [tls_report]\ndelay_max = \"144h\"\n[smtp]\nsession_timeout = \"1h\"\n[api]\ninbound_buffer_max = \"40 MiB\"\n";
    assert!(parse(right).is_ok(), "{:?}", parse(right));
}

#[test]
fn deeply_nested_values_are_an_error() {
    for depth in [100, 100_000] {
        for text in [
            format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("a = {}1{}", "{a = ".repeat(depth), "}".repeat(depth)),
            format!("a{} = 1", ".a".repeat(depth)),
            format!("[a{}]", ".a".repeat(depth)),
            format!("[[a{}]]", ".a".repeat(depth)),
            format!("a = {{a{} = 1}}", ".a".repeat(depth)),
        ] {
            let error = parse(&format!("\n{text}")).unwrap_err();
            assert!(error.starts_with("test.toml: TOML parse error at line 2"), "{error}");
        }
    }
}
