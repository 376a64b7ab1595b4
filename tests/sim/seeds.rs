//! Runs seeds in processes of their own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;

use crate::{Arguments, entropy, prepared_keys};

/// What the processes of all seeds use.
struct Prepared {
    entropy: PathBuf,
    keys: PathBuf,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let directory = tempfile::tempdir().unwrap();
    let prepared =
        Prepared { entropy: entropy::build(directory.path()), keys: prepared_keys::make(directory.path()) };
    let left: Mutex<Vec<u64>> =
        Mutex::new((arguments.seed..arguments.seed + arguments.seeds).rev().collect());
    let failed: Mutex<BTreeMap<u64, String>> = Mutex::default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let Some(seed) = next(&left) {
                    if arguments.stop_at_first && !failed.lock().unwrap().is_empty() {
                        return;
                    }
                    if let Err(output) = run_seed(arguments, &prepared, seed) {
                        failed.lock().unwrap().insert(seed, output);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{} seeds, {} failed: {:?}", arguments.seeds, failed.len(), failed.keys().collect::<Vec<_>>());
    let Some((seed, output)) = failed.first_key_value() else { return ExitCode::SUCCESS };
    let shorter = if arguments.stop_at_first { None } else { shortest(arguments, &prepared, *seed) };
    let (flags, output) = shorter.unwrap_or_else(|| (Vec::new(), output.clone()));
    let days = if flags.iter().any(|flag| flag.starts_with("--days")) {
        String::new()
    } else {
        format!(" --days={}", arguments.days)
    };
    println!("The shortest run that fails: sim --seed {seed}{days} {}", flags.join(" "));
    println!("{output}");
    ExitCode::FAILURE
}

fn next(left: &Mutex<Vec<u64>>) -> Option<u64> {
    left.lock().unwrap().pop()
}

/// The output, if the run fails or differs from a second one.
fn run_seed(arguments: &Arguments, prepared: &Prepared, seed: u64) -> Result<(), String> {
    let first = execute(prepared, &words(arguments, seed, &[]));
    let text = String::from_utf8_lossy(&first.stdout).into_owned();
    if !arguments.trace {
        println!("{}", text.lines().find(|line| line.starts_with("seed ")).unwrap_or("no result"));
    } else {
        println!("{text}");
    }
    if !first.status.success() {
        return Err(format!("{text}{}", String::from_utf8_lossy(&first.stderr)));
    }
    if arguments.twice {
        let second = execute(prepared, &words(arguments, seed, &[]));
        let second = String::from_utf8_lossy(&second.stdout).into_owned();
        if second != text {
            return Err(format!("seed {seed} has two traces\n{text}{second}"));
        }
    }
    Ok(())
}

/// Tries to fail with less. Returns the arguments and the output of the shortest run that fails.
fn shortest(arguments: &Arguments, prepared: &Prepared, seed: u64) -> Option<(Vec<String>, String)> {
    let mut found = None;
    let mut less: Vec<String> = Vec::new();
    let mut try_with = |more: &str, less: &mut Vec<String>| {
        let wanted = [less.clone(), vec![more.to_owned()]].concat();
        let output = execute(prepared, &words(arguments, seed, &wanted));
        if !output.status.success() {
            *less = wanted;
            found = Some((less.clone(), String::from_utf8_lossy(&output.stdout).into_owned()));
        }
    };
    for class in ["--no-operators", "--no-faults", "--no-crashes"] {
        try_with(class, &mut less);
    }
    let mut days = arguments.days;
    for _ in 0..6 {
        days /= 2.0;
        try_with(&format!("--days={days}"), &mut less);
    }
    found
}

fn words(arguments: &Arguments, seed: u64, more: &[String]) -> Vec<String> {
    let mut words = vec!["--here".to_owned(), format!("--seed={seed}")];
    let is_set = |name: &str| more.iter().any(|word| word.starts_with(name));
    if !is_set("--days") {
        words.push(format!("--days={}", arguments.days));
    }
    let classes = [
        ("--no-operators", arguments.no_operators),
        ("--no-faults", arguments.no_faults),
        ("--no-crashes", arguments.no_crashes),
        ("--trace", arguments.trace),
    ];
    words.extend(
        classes
            .into_iter()
            .filter(|(name, is_wanted)| *is_wanted && !is_set(name))
            .map(|(name, _)| name.to_owned()),
    );
    // The last one counts.
    let days = more.iter().rfind(|word| word.starts_with("--days"));
    words.extend(more.iter().filter(|word| !word.starts_with("--days")).cloned());
    words.extend(days.cloned());
    words
}

fn execute(prepared: &Prepared, words: &[String]) -> Output {
    let seed = words.iter().find_map(|word| word.strip_prefix("--seed=")).unwrap_or("0");
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(words).env("LD_PRELOAD", &prepared.entropy).env("SIMULATION_SEED", seed);
    command.env(prepared_keys::DIRECTORY, &prepared.keys);
    command.output().expect("the program starts")
}
