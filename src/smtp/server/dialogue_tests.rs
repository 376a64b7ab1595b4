//! Runs the dialogues of `tests/dialogues` with a session without a socket.

use std::path::Path;

use super::settings::SessionSettings;
use super::testing::{Conversation, inbound_settings, settings};

#[path = "../../../tests/it/dialogue.rs"]
mod dialogue;

use dialogue::{Dialogue, Step, Variables, contains, fill, fill_bytes, is_continued, load_all, matches};

/// The settings and variables of one folder of dialogues.
struct Stage {
    settings: SessionSettings,
    variables: Variables<'static>,
}

fn submission() -> Stage {
    let mut settings = settings();
    settings.recipients_max = 5;
    settings.refused_recipients_max = 10;
    settings.commands_without_message_max = 100;
    settings.data.message_octets_max = 100 * 1024;
    settings.data.line_octets_max = 64 * 1024;
    let variables = [
        ("hostname", "mx.pillarbox.example"),
        ("auth", "AHVzZXIAcGFzcw=="),
        ("bad_auth", "AHVzZXIAd3Jvbmc="),
        ("user", "dXNlcg=="),
        ("password", "cGFzcw=="),
        ("sender", "a@own.example"),
        ("foreign_sender", "a@foreign.example"),
        ("recipient", "b@other.example"),
        ("other_recipient", "c@other.example"),
        ("suppressed", "suppressed@other.example"),
        ("size_max", "102400"),
        ("size_over", "102401"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    Stage { settings, variables }
}

fn inbound() -> Stage {
    let variables = [
        ("hostname", "mx.pillarbox.example"),
        ("token", "bounce+d1@bounce.pillarbox.example"),
        ("stranger", "stranger@bounce.pillarbox.example"),
        ("elsewhere", "a@elsewhere.example"),
        ("size_max", "1000"),
        ("size_over", "1001"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    Stage { settings: inbound_settings(), variables }
}

/// Runs a dialogue. The client's octets arrive all at once, or one by one.
fn run(dialogue: &Dialogue, stage: &Stage, one_by_one: bool) {
    let variables = &stage.variables;
    let mut it = Conversation::new(stage.settings.clone(), dialogue.starts_with_tls());
    let mut read = 0;
    let mut to_send = Vec::new();
    for (number, step) in &dialogue.steps {
        let place = format!("{}:{number}", dialogue.name);
        if let Step::Send(bytes) = step {
            to_send.extend(fill_bytes(bytes, variables));
            continue;
        }
        let piece = if one_by_one { 1 } else { to_send.len().max(1) };
        to_send.chunks(piece).for_each(|piece| it.feed(piece));
        to_send.clear();
        let output = String::from_utf8(it.output[read..].to_vec()).unwrap();
        let mut lines = output.split_inclusive("\r\n");
        let mut next = || {
            let line = lines.next().unwrap_or_else(|| panic!("{place}: no reply"));
            read += line.len();
            line.trim_end_matches("\r\n").to_owned()
        };
        match step {
            Step::Line(pattern) => {
                let (pattern, line) = (fill(pattern, variables), next());
                assert!(matches(&pattern, &line), "{place}: expected {pattern:?}, got {line:?}");
            }
            Step::ReplyWith(pattern) | Step::ReplyWithout(pattern) => {
                let mut reply = vec![next()];
                while is_continued(&reply[reply.len() - 1]) {
                    reply.push(next());
                }
                let wanted = matches!(step, Step::ReplyWith(_));
                assert!(contains(&fill(pattern, variables), &reply) == wanted, "{place}: {reply:#?}");
            }
            Step::Closed => {
                assert!(it.closed && output.is_empty(), "{place}: not closed, or replied {output:?}")
            }
            Step::Tls | Step::Send(_) => {}
        }
    }
    let rest = &it.output[read..];
    assert!(rest.is_empty(), "{}: unexpected output: {}", dialogue.name, rest.escape_ascii());
}

#[test]
fn every_dialogue_gets_the_replies_it_expects() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues"));
    // The dialogues in `bare` need a fixed nonce, which a real server never has.
    let dialogues = [load_all(directory), load_all(&directory.join("bare"))].concat();
    assert!(dialogues.len() >= 150, "only {} were found", dialogues.len());
    run_all(&dialogues, &submission());
}

#[test]
fn every_dialogue_of_another_server_gets_the_replies_it_expects() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues/inbound"));
    let dialogues = load_all(directory);
    assert!(dialogues.len() >= 30, "only {} were found", dialogues.len());
    run_all(&dialogues, &inbound());
}

/// Runs all of them, so that one run reports every failure.
fn run_all(dialogues: &[Dialogue], stage: &Stage) {
    let failed = dialogues.iter().filter(|dialogue| {
        // A split after STARTTLS would change what was received before the handshake.
        let one_by_one = !dialogue.name.contains("injection");
        let succeeds = |one_by_one| std::panic::catch_unwind(|| run(dialogue, stage, one_by_one)).is_ok();
        !succeeds(false) || one_by_one && !succeeds(true)
    });
    assert_eq!(failed.count(), 0);
}
