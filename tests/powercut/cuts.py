"""Cuts of the power of a recorded server, and what must be left after each."""

import concurrent.futures
import contextlib
import dataclasses
import http.client
import math
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request

from disk import Disk, Loss
from ledger import digest
from server import BINARY, PATIENCE_SECONDS, free_ports
from sink import Sink
from system_calls import SYNCS

OPEN = ("queued", "deferred")
# Servers that are started at once.
CHECKS = 2
# One cut in so many is followed by the delivery of all that is open.
DRAIN_ONE_IN = 25
FINISHED_SECONDS = 60


@dataclasses.dataclass
class Record:
    """A load that was recorded: the calls, the folder of the server, its configuration, and what clients know."""

    name: str
    folder: pathlib.Path
    config: str
    ports: list
    calls: list
    ledger: object
    steps: list = dataclasses.field(default_factory=list)
    existing: tuple = ()


@dataclasses.dataclass
class Cut:
    at: int
    seed: int

    def __str__(self):
        return f"call {self.at}, seed {self.seed}"


def choose(record, count, chance):
    """Places for cuts, most of them where something has just been promised or is half done."""
    clocks = [call.clock for call in record.calls]
    replies = [one.clock for one in [*record.ledger.accepted, *record.ledger.changed]]
    syncs, names, moves = [], [], []
    for at, call in enumerate(record.calls):
        if call.name in SYNCS:
            syncs.append(at)
        elif call.name.startswith(("rename", "unlink", "mkdir", "ftruncate")):
            names.append(at)
        elif call.name == "pwrite64" and not call.arguments.endswith(", 0"):
            moves.append(at)
    cuts = []
    for _ in range(count):
        kind = chance.random()
        if kind < 0.4:
            at = first_after(clocks, chance.choice(replies))
        elif kind < 0.7:
            # Before a sync everything since the last one is at risk.
            at = chance.choice(syncs) + chance.choice((0, 0, 1))
        elif kind < 0.8:
            at = chance.choice(names) + 1
        elif kind < 0.9:
            at = chance.choice(moves) + 1
        else:
            at = chance.randrange(len(clocks))
        cuts.append(Cut(min(at, len(clocks)), chance.getrandbits(32)))
    return sorted(cuts, key=lambda cut: cut.at)


def first_after(clocks, clock):
    """The first call that ended after a reply; clocks grow except for moments between processes."""
    low, high = 0, len(clocks)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if clocks[middle] > clock else (middle + 1, high)
    return low


class Failure(Exception):
    """What a cut has lost."""


class PortTaken(Exception):
    """Another process took a port first."""


def run(record, cuts, check, is_dropped=lambda file, at: False, stops_at_first=False):
    """Cuts, and checks each with `check(record, folder, clock, number)`. Returns the failures, as (cut, kind of loss, text),
    and how many were checked."""
    disk = Disk(record.folder, is_dropped, record.existing)
    failures, checked = [], 0
    slots = threading.Semaphore(CHECKS)
    with (
        tempfile.TemporaryDirectory(prefix="pillarbox-cut-", dir="/dev/shm") as scratch,
        concurrent.futures.ThreadPoolExecutor(CHECKS) as pool,
    ):
        pending = []
        for number, cut in enumerate(cuts):
            slots.acquire()
            if stops_at_first and failures:
                slots.release()
                break
            disk.advance(record.calls, cut.at)
            loss = Loss(random.Random(cut.seed))
            target = pathlib.Path(scratch) / str(number)
            disk.cut(target, loss)
            clock = clock_of(record, cut)

            def check_one(cut=cut, loss=loss, target=target, clock=clock, number=number):
                try:
                    check(record, target, clock, number)
                except Failure as failure:
                    failures.append((cut, loss.kind, str(failure)))
                finally:
                    shutil.rmtree(target)
                    slots.release()

            pending.append(pool.submit(check_one))
            checked += 1
        for one in pending:
            one.result()
    return failures, checked


def clock_of(record, cut):
    """The time until which promises hold: that of the last call, and after the last one any."""
    if cut.at == len(record.calls):
        return math.inf
    return record.calls[cut.at - 1].clock if cut.at else 0


def check_cut(record, folder, clock, number):
    """Starts the server on what is left. Whatever was promised until this time must be there."""
    is_drained = number % DRAIN_ONE_IN == DRAIN_ONE_IN - 1
    ledger = record.ledger
    accepted, changed = ledger.accepted_before(clock), ledger.changed_before(clock)
    sink_messages = []
    sink = Sink(on_message=sink_messages.append) if is_drained else None
    try:
        with started(record, folder, sink):
            if sink:
                drain(folder, accepted, ledger, sink_messages)
    finally:
        if sink:
            sink.stop()
    check_database(folder / "data", accepted, changed, ledger, {m for one in sink_messages for m in one.recipients})


@contextlib.contextmanager
def started(record, folder, sink=None, data="data"):
    """The real binary on the folder until the end of the block. The relay has no host to connect to, or a sink."""
    while True:
        with contextlib.suppress(PortTaken):
            process = start(record, folder, sink, data)
            break
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def start(record, folder, sink, data):
    """Starts the binary and waits until it is ready."""
    ports = free_ports(len(record.ports))
    text = record.config.replace(f'data_dir = "{record.folder}/data"', f'data_dir = "{folder}/{data}"')
    new = dict(zip(map(str, record.ports), ports, strict=True))
    text = re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{new[found[1]]}", text)
    # The smart host is the last one with such a line.
    head, _, tail = text.rpartition("\nport = ")
    text = f"{head}\nport = {sink.port if sink else 9}\n{tail.split(chr(10), 1)[1]}"
    config = folder / "pillarbox.toml"
    config.write_text(text)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [BINARY, "serve", "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until_ready(process, ports[2], folder / "log")
    except BaseException:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise
    return process


def wait_until_ready(process, port, log):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if process.poll() is not None:
            said = log.read_text(errors="replace")
            raise PortTaken if "Address already in use" in said else Failure(f"the server does not start: {said[-400:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except http.client.HTTPException:
            raise PortTaken from None
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise Failure(f"the server is not ready in time: {log.read_text(errors='replace')[-400:]}")
        time.sleep(0.02)


def drain(folder, accepted, ledger, received):
    """Waits until nothing that was accepted is queued, then compares what arrived."""
    wanted = {one.id: one for one in accepted}
    deadline = time.monotonic() + FINISHED_SECONDS
    database = sqlite3.connect(f"file:{folder}/data/pillarbox.db?mode=ro", uri=True)
    while True:
        sql = "SELECT count(*) FROM delivery WHERE state = 'queued'"
        if database.execute(sql).fetchone() == (0,):
            break
        if time.monotonic() > deadline:
            raise Failure("not everything is delivered in time")
        time.sleep(0.1)
    database.close()
    by_recipient = {recipient: one for one in wanted.values() for recipient in one.recipients}
    for message in received:
        content = digest(message.content.partition(b"\r\n\r\n")[2])
        for recipient in message.recipients:
            if recipient in by_recipient and content != by_recipient[recipient].sha256:
                raise Failure(f"{recipient} got another content")


def check_database(data, accepted, changed, ledger, drained):
    try:
        database = sqlite3.connect(data / "pillarbox.db")
        faults = [row[0] for row in database.execute("PRAGMA integrity_check")]
        if faults != ["ok"]:
            raise Failure(f"integrity_check: {faults[:3]}")
        deliveries = {}
        for message, recipient, state in database.execute("SELECT message_id, recipient, state FROM delivery"):
            deliveries[message, recipient] = state
        bodies = {
            row[0]: row[1:]
            for row in database.execute("SELECT message_id, submitted, file_prefix_octets FROM body")
        }
        messages = {row[0] for row in database.execute("SELECT id FROM message")}
        for one in accepted:
            if one.id not in messages:
                raise Failure(f"LOST: {one.id}")
            states = [deliveries.get((one.id, recipient)) for recipient in one.recipients]
            check_message(data, one, states, bodies.get(one.id), ledger, drained)
        for one in changed:
            found = database.execute(f"SELECT 1 FROM {one.table} WHERE id = ?", [one.id]).fetchone()
            if (found is not None) != one.exists:
                raise Failure(f"the change of {one.table} {one.id} is lost")
        database.close()
    except sqlite3.DatabaseError as error:
        raise Failure(f"the database cannot be read: {error}") from error


def check_message(data, one, states, body, ledger, drained):
    for recipient, state in zip(one.recipients, states, strict=True):
        if state is None:
            raise Failure(f"LOST: {recipient} of {one.id}")
        if state == "delivered" and recipient not in drained and one.sha256 not in ledger.delivered[recipient]:
            raise Failure(f"LOST: {recipient} of {one.id} is called delivered")
    if body is None or (body[0] is None and body[1] is None):
        if any(state in OPEN for state in states):
            raise Failure(f"LOST: the body of {one.id}, which is open")
        return
    submitted, file_prefix_octets = body
    if file_prefix_octets is not None:
        path = data / "bodies" / one.id[-2:] / f"{one.id}.eml"
        if not path.is_file():
            raise Failure(f"LOST: the file of {one.id}")
        submitted = path.read_bytes()[file_prefix_octets:]
    elif isinstance(submitted, str):
        submitted = submitted.encode()
    if digest(submitted.partition(b"\r\n\r\n")[2]) != one.sha256:
        raise Failure(f"LOST: the content of {one.id} has changed")
