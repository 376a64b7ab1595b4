"""Backups and restores of a recorded server, and cuts of the power in them. A backup under its name is complete; a data
directory is the old one or the restored one; what the program has reported as done is there."""

import dataclasses
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time

from cuts import Cut, Failure, Record, check_database, started
from ledger import Ledger
from loads import DOMAIN, LARGE, SMALL, STORE, Clients, answer_rcpt
from server import BINARY, PATIENCE_SECONDS, Server
from sink import Sink
from system_calls import SYNCS, Recorder

CLIENTS = 2
MESSAGES_BEFORE = 80
# The directory that one restore fills.
EMPTY = "empty"
# Most cuts are at a call that gives something its place or makes it durable.
SOON_CALLS = 3


@dataclasses.dataclass
class Step:
    """A run of the program. `accepted_until` is the time until which messages must be in what it makes; `calls` are the places
    of its calls in the record."""

    kind: str
    process: str
    path: str
    accepted_until: float
    done_at: float
    calls: list = dataclasses.field(default_factory=list)


def record(folder, chance):
    ledger = Ledger()
    sink = Sink(answer_rcpt, ledger.receive)
    recorder = Recorder(BINARY, folder / "calls")
    key = folder / "master.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    top = f'master_key_file = "{key}"'
    server = Server(folder / "server", sink.port, store=STORE, top=top, binary=recorder.program)
    (server.folder / EMPTY).mkdir(mode=0o700)
    backups = server.folder / "backups"
    steps = []

    def step(kind, made, *arguments, of=None):
        began = of.accepted_until if of else time.time()
        process = subprocess.Popen(
            [recorder.program, "backup", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        said, _ = process.communicate(timeout=2 * PATIENCE_SECONDS)
        assert process.returncode == 0, said
        path = str(made.relative_to(server.folder))
        steps.append(Step(kind, str(process.pid), path, began, time.time()))
        return steps[-1]

    try:
        server.start()
        account = server.create_account(DOMAIN)
        with Clients(server, account, ledger, chance, CLIENTS, (*SMALL, *LARGE), ("take", "defer")):
            while len(ledger.accepted) < MESSAGES_BEFORE:
                time.sleep(0.02)
            create = ("create", "--rate", "0", "--config", server.config)
            first = step("backup", backups / "one", *create, backups / "one")
            second = step("backup", backups / "two", *create, backups / "two", "--since", backups / "one")
            third = step("archive", backups / "three.tar", *create, backups / "three.tar")
        server.stop()
        restore = ("restore", "--yes", "--master-key", key)
        new, empty = server.folder / "new", server.folder / EMPTY
        step("restore", new, *restore, backups / "two", "--data-dir", new, of=second)
        step("restore into a directory", empty, *restore, backups / "three.tar", "--data-dir", empty, of=third)
        data = server.folder / "data"
        step("replacement", data, *restore, backups / "one", "--data-dir", data, "--replace", of=first)
    except BaseException:
        print(server.log_tail(), file=sys.stderr)
        raise
    finally:
        if server.process and server.process.poll() is None:
            server.kill()
        sink.stop()
    calls = recorder.calls()
    for made in steps:
        made.calls = [at for at, call in enumerate(calls) if call.process == made.process]
    ports = [server.submission, server.submissions, server.api, server.metrics]
    shutil.rmtree(recorder.folder)
    return Record("backups", server.folder, server.config.read_text(), ports, calls, ledger, steps, (EMPTY,))


def choose(record, count, chance):
    """Places for cuts in each step and just after it."""
    cuts = []
    for number in range(count):
        step = record.steps[number % len(record.steps)]
        own = step.calls
        marks = [at for at in own if record.calls[at].name in SYNCS or "rename" in record.calls[at].name]
        at = chance.choice((chance.choice(own), chance.choice(marks), own[-1]))
        at += int(chance.expovariate(1 / SOON_CALLS))
        cuts.append(Cut(min(at, len(record.calls)), chance.getrandbits(32)))
    return sorted(cuts, key=lambda cut: cut.at)


def check(record, folder, clock, number):
    """Looks at what the steps until this time have made."""
    begun = [step for step in record.steps if record.calls[step.calls[0]].clock <= clock]
    for step in begun[-2:]:
        is_done = step.done_at <= clock
        if step.kind in ("backup", "archive"):
            check_backup(folder / step.path, is_done)
        else:
            check_restored(record, folder, step, is_done, number)


def check_backup(path, is_done):
    if not path.exists():
        if is_done:
            raise Failure(f"LOST: the backup {path.name}")
        return
    done = subprocess.run([BINARY, "backup", "verify", path], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if done.returncode != 0:
        raise Failure(f"the backup {path.name} has its name and is damaged: {done.stdout[-300:]}{done.stderr[-300:]}")


def check_restored(record, folder, step, is_done, number):
    data = folder / step.path
    is_replacement = step.kind == "replacement"
    if not (data / "pillarbox.db").is_file():
        if is_done or is_replacement:
            raise Failure(f"LOST: the data directory of the {step.kind}")
        if (data / "bodies").is_dir() and any((data / "bodies").iterdir()):
            refuse_half(record, folder, step)
        return
    with started(record, folder, data=step.path):
        pass
    with sqlite3.connect(data / "pillarbox.db") as database:
        is_restored = database.execute("SELECT count(*) FROM restoration").fetchone()[0] > 0
    database.close()
    if not is_restored and (is_done or not is_replacement):
        raise Failure(f"the {step.kind} has left another database")
    until = step.accepted_until if is_restored else float("inf")
    check_database(data, record.ledger.accepted_before(until), [], record.ledger, set())
    if is_replacement and is_done:
        kept = list(folder.glob("data.before-*"))
        if len(kept) != 1:
            raise Failure("LOST: the replaced data directory")
        check_database(kept[0], record.ledger.accepted, [], record.ledger, set())


def refuse_half(record, folder, step):
    """Bodies without a database: the server must not begin anew there."""
    try:
        with started(record, folder, data=step.path):
            raise Failure(f"the server starts anew beside the bodies of the {step.kind}")
    except Failure as failure:
        if "is missing" not in str(failure):
            raise


def place_of(record, sync):
    """The kind of a sync of a step; None for those of the server."""
    step = next((step for step in record.steps if step.process == sync.call.process), None)
    if step is None:
        return None
    if sync.call.name == "syncfs":
        return f"{step.kind}: everything"
    if ".partial-" in sync.path:
        # What is beside the name is the database that is being copied or prepared.
        return f"{step.kind}: work directory"
    name = sync.path.rpartition("/")[2] or "directory of the data directory"
    if name.endswith("-last-backup.json") or (name == "data" and step.kind in ("backup", "archive")):
        name = "note of the last backup"
    return f"{step.kind}: {name}"
