//! Runs the targets of `tests/fuzz`: the seeds, the committed corpus, then mutations of both. `tests/fuzz/run` is guided by
//! coverage, this run is not: it keeps the targets working and finds simple faults.
//! `FUZZ_SECONDS=600 cargo test --test it fuzz` runs each target for this time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

#[path = "../fuzz/properties/mod.rs"]
mod properties;

/// The number of mutations in a run without a time.
const MUTATIONS: usize = 12_000;
/// The number for targets that take long without optimization.
const MUTATIONS_OF_SLOW: usize = 1_500;
const SLOW: &[&str] = &["body", "config", "email", "handshake", "inbound", "parts", "rewrite"];
/// Limits of the committed corpus of a target, as in `tests/fuzz/run`.
const CORPUS_FILES_MAX: usize = 200;
const CORPUS_OCTETS_MAX: usize = 200_000;
const OCTETS_MAX: usize = 16 * 1024;

/// A small random number generator, so that a run can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn read_all(directory: PathBuf) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    read_all(folder().join("seeds").join(target))
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    read_all(folder().join("corpus").join(target))
}

/// The words of a dictionary for libFuzzer.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let own = folder().join(format!("{target}.dict"));
    let file = if own.exists() { own } else { folder().join("smtp.dict") };
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| unescape(line.strip_prefix('"').unwrap().strip_suffix('"').unwrap())).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::new(), text.bytes());
    while let Some(octet) = rest.next() {
        match octet {
            b'\\' => match rest.next() {
                Some(b'x') => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    octets.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                escaped => octets.extend(escaped),
            },
            _ => octets.push(octet),
        }
    }
    octets
}

/// Makes one to four changes: an octet, or a piece removed, doubled or copied from another input, or a word.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[Vec<u8>], chance: &mut Chance) {
    for _ in 0..=chance.below(4) {
        let at = chance.below(input.len() + 1);
        let end = at + chance.below((input.len() - at).min(64) + 1);
        match chance.below(7) {
            0 if at < input.len() => input[at] = chance.next() as u8,
            1 if at < input.len() => input[at] ^= 1 << chance.below(8),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let other = chance.choose(others);
                let from = chance.below(other.len() + 1);
                input.splice(at..end, other[from..].iter().copied());
            }
            _ => {
                let word = chance.choose(words).clone();
                input.splice(at..at, word);
            }
        }
    }
    input.truncate(OCTETS_MAX);
}

fn run(name: &str) {
    let target = properties::find(name).unwrap();
    let (mut inputs, words) = ([seeds(name), corpus(name)].concat(), dictionary(name));
    let mutations = if SLOW.contains(&name) { MUTATIONS_OF_SLOW } else { MUTATIONS };
    let attempt = |input: &[u8]| {
        let held = std::panic::catch_unwind(|| target(input));
        assert!(held.is_ok(), "{name} does not hold for b\"{}\"", input.escape_ascii());
    };
    inputs.iter().for_each(|input| attempt(input));
    let seconds =
        std::env::var("FUZZ_SECONDS").ok().map(|text| text.parse().expect("FUZZ_SECONDS is a number"));
    let started = Instant::now();
    let goes_on = |done: usize| match seconds {
        Some(seconds) => started.elapsed() < Duration::from_secs(seconds),
        None => done < mutations,
    };
    let mut chance = Chance(0x5eed_0f5a_1701);
    let mut done = 0;
    while goes_on(done) {
        let mut input = chance.choose(&inputs).clone();
        mutate(&mut input, &inputs, &words, &mut chance);
        attempt(&input);
        done += 1;
        // Some of the results become new inputs, so that changes add up.
        if chance.below(200) == 0 && inputs.len() < 800 {
            inputs.push(input);
        }
    }
}

macro_rules! each {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

each!(
    address, body, command, config, data, email, feedback, form, handshake, headers, inbound, line, parts,
    proxy, query, records, reply, rewrite, session, template, token,
);

#[test]
fn each_target_is_tested_and_has_seeds_and_a_small_corpus() {
    let targets: Vec<&str> = properties::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, TESTED);
    for kind in ["seeds", "corpus"] {
        let entries = std::fs::read_dir(folder().join(kind)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found: BTreeSet<String> = names.filter(|name| !name.starts_with('.')).collect();
        assert_eq!(found, targets.iter().map(|name| (*name).to_owned()).collect(), "{kind}");
    }
    for target in targets {
        let corpus = corpus(target);
        let octets: usize = corpus.iter().map(Vec::len).sum();
        assert!(corpus.len() <= CORPUS_FILES_MAX && octets <= CORPUS_OCTETS_MAX, "{target}");
    }
}
