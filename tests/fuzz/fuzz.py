"""Runs libFuzzer on each target. `tests/fuzz/run` describes the arguments."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE / "target" / "fuzz"
CORPUS = HERE / "corpus"
BINARY = os.environ["FUZZ_BINARY"]

# Limits of one input. A slower one, or one that takes more memory, is a defect.
SECONDS_MAX = 10
MEMORY_MB_MAX = 1024
# Limits of the committed corpus of a target.
FILES_MAX = 200
OCTETS_MAX = 200_000

LIMITS = [f"-timeout={SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MB_MAX}"]
# Frames of the machinery in a stack.
FRAMES_LEFT_OUT = re.compile(r"rust_begin_unwind|core::panicking|std::panic|libfuzzer|fuzzer::|LLVMFuzzer|rust_fuzzer|__libc_start|_start|backtrace")


class Defect(Exception):
    """An input that violates a property or a limit."""


def names():
    """The targets, as the code lists them."""
    text = (HERE / "properties" / "mod.rs").read_text()
    return re.findall(r"\w+", re.search(r"^properties!\((.*?)\);", text, re.S | re.M)[1])


def start(target, arguments, log):
    """Runs libFuzzer on a target; returns the status, and the CPU seconds."""
    environment = {**os.environ, "FUZZ_TARGET": target, "RUST_BACKTRACE": "1"}
    with open(log, "wb") as output:
        child = subprocess.Popen([BINARY, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=WORK)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def seeds(target):
    """The directories with inputs in the tree."""
    return [str(path) for path in (HERE / "seeds" / target, CORPUS / target) if path.is_dir()]


def dictionary(target):
    own = HERE / f"{target}.dict"
    return own if own.is_file() else HERE / "smtp.dict"


def fuzz(target, seconds):
    """Fuzzes a target; returns its figures."""
    found, crashes = WORK / "found" / target, WORK / "crashes" / target
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{target}.log"
    used = executions = edges = 0
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0 or not executions:
        known = set(crashes.iterdir())
        arguments = [*LIMITS, f"-max_total_time={max(1, round(left))}", "-print_final_stats=1", f"-dict={dictionary(target)}",
                     f"-artifact_prefix={crashes}/", str(found), *seeds(target)]
        status, seconds_used = start(target, arguments, log)
        text = log.read_text(errors="replace")
        used += seconds_used
        executions += last_number(r"stat::number_of_executed_units:\s*(\d+)", text)
        edges = max(edges, last_number(r"cov: (\d+)", text))
        if status == 0:
            break
        if status < 0 and status in (-2, -15):
            raise KeyboardInterrupt
        new = sorted(path for path in set(crashes.iterdir()) - known if not path.name.startswith("slow-unit-"))
        # On a busy machine, an input can be slow without being at fault.
        if not (new and new[0].name.startswith("timeout-") and repeats_in_time(target, new[0])):
            raise Defect(describe(target, status, text, new))
    octets = minimise(target)
    return used, executions, edges, *octets


def repeats_in_time(target, path):
    status, _ = start(target, [*LIMITS, str(path)], WORK / f"{target}.again.log")
    if status == 0:
        path.unlink()
    return status == 0


def last_number(pattern, text):
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def describe(target, status, text, artifacts):
    """The input, why it is a defect, and how to repeat it."""
    lines = [f"target {target}: {reason(status, text)}"]
    if artifacts:
        octets = artifacts[0].read_bytes()
        shown = octets[:400].decode("latin-1").encode("unicode_escape").decode()
        lines += [f"input {artifacts[0]}, {len(octets)} octets: {shown}{'…' if len(octets) > 400 else ''}"]
    lines += ["stack:", *(stack(text) or ["  none"])]
    if artifacts:
        lines += [f"repeat it with: tests/fuzz/run --input {artifacts[0]} {target}"]
    else:
        seed = last_number(r"INFO: Seed: (\d+)", text)
        lines += [f"no input was saved, which happens if the stack overflows; the seed of libFuzzer was {seed}"]
    return "\n".join(lines)


def reason(status, text):
    panic = re.search(r"panicked at .*(?:\n(?!stack backtrace|note:|==).*){0,6}", text)
    error = re.search(r"ERROR: libFuzzer: (.*)", text)
    if panic:
        return panic[0][:2000]
    return error[1] if error else f"ended with status {status}"


def stack(text):
    """The frames of the project and of libraries, innermost first."""
    frames = re.findall(r"^\s*(\d+): (.+)(?:\n\s+at (.+))?", text, re.M)
    kept = [f"  {name} {place}".rstrip() for _, name, place in frames if not FRAMES_LEFT_OUT.search(name + place)]
    return kept[:15]


def merge(target, *options):
    """The fewest inputs that reach what all known inputs reach, besides the seeds; in a new directory."""
    merged = WORK / "merged" / target
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    for path in (HERE / "seeds" / target).iterdir():
        shutil.copyfile(path, merged / f"seed-{path.name}")
    from_seeds = os.listdir(merged)
    arguments = [*LIMITS, "-set_cover_merge=1", *options, str(merged), str(WORK / "found" / target), *seeds(target)]
    status, _ = start(target, arguments, WORK / f"{target}.merge.log")
    if status != 0:
        raise Defect(f"target {target}: the corpus cannot be merged, see {WORK}/{target}.merge.log")
    for name in from_seeds:
        (merged / name).unlink()
    return merged


def minimise(target):
    """Replaces what was found by the fewest inputs that reach the same, as often; returns their number and octets."""
    found, merged = WORK / "found" / target, merge(target)
    shutil.rmtree(found)
    merged.rename(found)
    files = list(found.iterdir())
    return len(files), sum(path.stat().st_size for path in files)


def keep(target):
    """Writes the fewest inputs that reach the same edges into the tree, within the limits: first those that add the most."""
    new, old = CORPUS / f".{target}.new", CORPUS / f".{target}.old"
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    # How often an edge is reached does not count. libFuzzer writes the input that adds the most first.
    files = sorted(merge(target, "-use_counters=0").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    octets = 0
    for path in files[:FILES_MAX]:
        if octets + path.stat().st_size <= OCTETS_MAX:
            octets += path.stat().st_size
            shutil.copyfile(path, new / path.name)
    if (CORPUS / target).exists():
        (CORPUS / target).rename(old)
    new.rename(CORPUS / target)
    shutil.rmtree(old, ignore_errors=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="tests/fuzz/run")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--input", type=Path)
    parser.add_argument("minutes", nargs="?")
    parser.add_argument("targets", nargs="*")
    arguments = parser.parse_args()
    if arguments.input:
        arguments.targets = [arguments.minutes, *arguments.targets]
    unknown = set(arguments.targets) - set(names())
    if unknown or not (arguments.list or arguments.minutes):
        parser.error(f"no such target: {', '.join(map(str, unknown))}" if unknown else "MINUTES is missing")
    return arguments


def stop(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, stop)
    arguments = parse_arguments()
    if arguments.list:
        return print("\n".join(names()))
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.input:
        log = WORK / "input.log"
        status, _ = start(arguments.targets[0], [*LIMITS, str(arguments.input.resolve())], log)
        print(log.read_text(errors="replace"))
        sys.exit(1 if status else 0)
    targets = arguments.targets or names()
    seconds = max(1.0, float(arguments.minutes) * 60 / len(targets))
    print(f"{'target':10} {'CPU s':>7} {'executions':>11} {'/s':>8} {'edges':>6}  corpus", flush=True)
    total = 0
    for target in targets:
        used, executions, edges, files, octets = fuzz(target, seconds)
        total += executions
        if arguments.keep:
            keep(target)
        rate = executions / max(used, 0.01)
        print(f"{target:10} {used:7.0f} {executions:11,} {rate:8,.0f} {edges:6}  {files} inputs, {octets:,} octets", flush=True)
    print(f"{total:,} executions, no defect")


try:
    main()
except Defect as defect:
    print(defect)
    sys.exit(1)
except KeyboardInterrupt:
    sys.exit(130)
