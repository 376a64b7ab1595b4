//! Runs the fuzz targets of `tests/fuzz` with the stable toolchain: the seeds, then mutations of them. `cargo fuzz` is
//! guided by coverage, this run is not: it keeps the targets working and finds simple faults.
//! `FUZZ_SECONDS=600 cargo test --test it fuzz` runs each target for this time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pillarbox::api::template_language;
use pillarbox::{feedback, mail, model, smtp};

#[path = "../fuzz/properties/mod.rs"]
mod properties;

/// The number of mutations in a run without a time.
const MUTATIONS: usize = 12_000;
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

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let seeds = match target {
        // The fixtures of the reader.
        "feedback" => folder().join("../it/report_reader"),
        _ => folder().join("seeds").join(target),
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// The words of a dictionary for libFuzzer.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let file = match target {
        "template" | "feedback" => format!("{target}.dict"),
        _ => "smtp.dict".to_owned(),
    };
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    text.lines().map(|line| unescape(line.trim_matches('"'))).collect()
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

fn run(name: &str, target: fn(&[u8])) {
    let (mut inputs, words) = (seeds(name), dictionary(name));
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
        None => done < MUTATIONS,
    };
    let mut chance = Chance(0x5eed_0f5a_1701);
    let mut done = 0;
    while goes_on(done) {
        let mut input = chance.choose(&inputs).clone();
        mutate(&mut input, &inputs, &words, &mut chance);
        attempt(&input);
        done += 1;
        // Some of the results become new inputs, so that changes add up.
        if chance.below(200) == 0 && inputs.len() < 400 {
            inputs.push(input);
        }
    }
}

macro_rules! each {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), properties::$name);
            }
        )*

        #[test]
        fn each_target_runs_and_is_a_target_of_cargo_fuzz() {
            let mut found: Vec<String> = std::fs::read_dir(folder().join("fuzz_targets"))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut run = vec![$(stringify!($name)),*];
            run.sort_unstable();
            assert_eq!(found, run);
        }
    };
}

each!(line, data, command, address, reply, session, proxy, headers, template, feedback);
