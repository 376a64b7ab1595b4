"""Records loads of the real binary and cuts its power: the chosen cuts, then those of each mutant. See `run`."""

import argparse
import pathlib
import random
import shutil
import sys
import tempfile
import time

import backups
import cuts
import mutants
from cuts import Record
from ledger import Ledger
from loads import DOMAIN, LOADS, STORE, Bed, answer_rcpt
from server import BINARY, Server
from sink import Sink
from system_calls import Recorder


def record(name, folder, chance, scale):
    load, extra = LOADS[name]
    ledger = Ledger()
    sink = Sink(answer_rcpt, ledger.receive)
    recorder = Recorder(BINARY, folder / "calls")
    server = Server(folder / "server", sink.port, store=STORE, extra=extra, binary=recorder.program)
    try:
        server.start()
        account = server.create_account(DOMAIN)
        load(Bed(server, account, ledger, recorder, chance, scale))
        server.kill()
    except BaseException:
        print(server.log_tail(), file=sys.stderr)
        raise
    finally:
        if server.process and server.process.poll() is None:
            server.kill()
        sink.stop()
    calls = recorder.calls()
    ports = [server.submission, server.submissions, server.api, server.metrics]
    shutil.rmtree(recorder.folder)
    return Record(name, server.folder, server.config.read_text(), ports, calls, ledger)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cuts", type=int, nargs="?", default=1000)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(1 << 32))
    parser.add_argument("--scale", type=float, default=1, help="the part of a load's messages")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--backup-cuts", type=int, default=300, help="cuts in backups and restores, beside the others")
    parser.add_argument("--mutant-cuts", type=int, default=40, help="cuts of each mutant; 0 for no mutants")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    names = options.loads.split(",")
    failed = 0
    outcomes = mutants.Outcomes()
    with tempfile.TemporaryDirectory(prefix="pillarbox-powercut-") as folder:
        for number, name in enumerate(names):
            chance = random.Random(f"{options.seed} {name}")
            recorded = record(name, pathlib.Path(folder) / name, chance, options.scale)
            describe(recorded)
            count = options.cuts // len(names) + (number < options.cuts % len(names))
            failed += run(recorded, cuts.choose(recorded, count, chance), cuts.check_cut)
            # Where syncs fail, those that are left out make little difference.
            if options.mutant_cuts and name != "failing":
                mutants.run(recorded, options.mutant_cuts, chance, outcomes, cuts.check_cut)
            shutil.rmtree(pathlib.Path(folder) / name)
        if options.backup_cuts:
            chance = random.Random(f"{options.seed} backups")
            recorded = backups.record(pathlib.Path(folder) / "backups", chance)
            describe(recorded)
            failed += run(recorded, backups.choose(recorded, options.backup_cuts, chance), backups.check)
            if options.mutant_cuts:
                count = 2 * options.mutant_cuts
                mutants.run(recorded, count, chance, outcomes, backups.check, backups.place_of, backups.choose)
    if options.mutant_cuts:
        failed += outcomes.report()
    return 1 if failed else 0


def describe(recorded):
    ledger = recorded.ledger
    print(
        f"{recorded.name}: {len(recorded.calls)} calls, {len(ledger.accepted)} messages accepted, "
        f"{len(ledger.changed)} changes, {sum(map(len, ledger.delivered.values()))} delivered",
        flush=True,
    )


def run(recorded, chosen, check):
    """Cuts, and prints what is lost. Returns how many cuts have lost something."""
    began = time.monotonic()
    failures, checked = cuts.run(recorded, chosen, check)
    for cut, kind, text in failures[:10]:
        print(f"  {cut}, lost {kind}: {text}")
    print(f"{recorded.name}: {checked} cuts in {time.monotonic() - began:.0f} s, {len(failures)} FAILED", flush=True)
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
