"""Errors of the disk under a server with load: no reply is lost or final, nothing acknowledged is lost, the log names the
file. See `run`."""

import argparse
import ctypes
import errno
import mmap
import pathlib
import random
import re
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time

from cuts import Failure, check_database
from ledger import Ledger
from loads import DOMAIN, LARGE, SMALL, STORE, answer_rcpt, connect, submit
from server import BINARY, PATIENCE_SECONDS, Server
from sink import Sink

HERE = pathlib.Path(__file__).resolve().parent
SHORT, SLOW = -1, -2
FOREVER = 1 << 40
FAULTS = {
    "write": (errno.EIO, errno.ENOSPC, errno.EINTR, SHORT),
    "sync": (errno.EIO, errno.ENOSPC, errno.EINTR, SLOW),
    "truncate": (errno.EIO, errno.EINTR),
    "open": (errno.EIO, errno.ENOSPC, errno.EMFILE),
    "unlink": (errno.EIO,),
    "mkdir": (errno.EIO, errno.ENOSPC),
    "read": (errno.EIO, errno.EINTR),
}
# As in faults.c.
NUMBERS = {kind: number for number, kind in enumerate(("none", *FAULTS))}
# The kinds of which the load makes thousands of calls.
FREQUENT = ("write", "sync", "open", "read")
CALLS_MAX = 2000
CLIENTS = 5
HOLD_SECONDS = 1
REACH_SECONDS = 6
# Each part of the log of a fault that refuses mail has one of these.
NAMES_FILE = re.compile(r"pillarbox\.db|bodies/|data_dir|/data\b|make space")
# The log has each message once in this time.
LOG_INTERVAL_SECONDS = 65
START_CALLS = 400


class Control(ctypes.Structure):
    """What the preloaded library does; the same as in faults.c."""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("fault", ctypes.c_int),
        ("first", ctypes.c_long),
        ("count", ctypes.c_long),
        ("calls", ctypes.c_long),
        ("hits", ctypes.c_long),
        ("path", ctypes.c_char * 256),
    ]


class Faults:
    """The library in the program, and its control."""

    def __init__(self, folder, data):
        library = folder / "faults.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
        path = folder / "control"
        path.write_bytes(bytes(ctypes.sizeof(Control)))
        with open(path, "r+b") as file:
            self.control = Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self.program = folder / "program"
        self.program.write_text(
            f'#!/bin/sh\nexport LD_PRELOAD="{library}" FAULTS_CONTROL="{path}" FAULTS_FOLDER="{data}"\nexec {BINARY} "$@"\n'
        )
        self.program.chmod(0o755)

    def arm(self, fault):
        self.disarm()
        control = self.control
        control.fault, control.first, control.count = fault.error, fault.first, fault.count
        control.calls = control.hits = 0
        control.path = b""
        control.kind = NUMBERS[fault.kind]

    def disarm(self):
        self.control.kind = 0


class Fault:
    def __init__(self, kind, error, first, count):
        self.kind, self.error, self.first, self.count = kind, error, first, count

    def __str__(self):
        name = {SHORT: "half of it", SLOW: "slow"}.get(self.error) or errno.errorcode[self.error]
        return f"{self.kind} {self.first} {'and all after it' if self.count == FOREVER else 'alone'}: {name}"


def sample(chance, calls_max=CALLS_MAX):
    kind = chance.choice(list(FAULTS))
    error = chance.choice(FAULTS[kind])
    # Small numbers as often as large ones.
    first = int(calls_max ** chance.random()) if kind in FREQUENT else chance.randint(1, 3)
    return Fault(kind, error, max(first, 1), chance.choice((1, FOREVER)))


class Clients:
    """They submit all the time, and note each reply that is neither 250 nor temporary."""

    def __init__(self, server, account, ledger, chance):
        self.server, self.account, self.ledger = server, account, ledger
        self.stop_event = threading.Event()
        self.is_down = threading.Event()  # the process has ended
        self.faults = []
        self.threads = [threading.Thread(target=self.run, args=(chance.random(),)) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, seed):
        chance = random.Random(seed)
        while not self.stop_event.is_set():
            try:
                self.session(chance)
            except smtplib.SMTPResponseException as refusal:
                self.note(refusal.smtp_code)
                self.stop_event.wait(0.05)
            except TimeoutError:
                self.faults.append("no reply in time")
            except (OSError, smtplib.SMTPException) as broken:
                # Only a process that has ended breaks connections.
                time.sleep(0.2)
                if self.server.process.poll() is None and not self.is_down.is_set():
                    self.faults.append(f"the connection broke: {broken!r}")
            self.stop_event.wait(0.02)

    def session(self, chance):
        smtp = connect(self.server, self.account)
        try:
            while not self.stop_event.is_set():
                recipients = [f"{chance.choice(('take', 'take', 'defer'))}-{chance.getrandbits(64):016x}@d1.example"]
                self.note(submit(smtp, recipients, chance.choice((*SMALL, *LARGE[:2])), self.ledger, chance))
                self.stop_event.wait(0.01)
        finally:
            smtp.close()

    def note(self, code):
        if code != 250 and not 400 <= code < 500:
            self.faults.append(f"reply {code}")

    def stop(self):
        self.stop_event.set()
        for thread in self.threads:
            thread.join()


class Run:
    def __init__(self, folder, seed):
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.sink = Sink(answer_rcpt, self.ledger.receive)
        self.server = Server(folder / "server", self.sink.port, store=STORE, extra="[retention]\nbody_days = 0\n")
        self.data = self.server.folder / "data"
        self.faults = Faults(folder, self.data)
        self.server.binary = self.faults.program
        self.marks = []  # the size of the log at times
        self.failed = []
        self.counts = {}
        self.stopped = self.refusals = self.unreached = 0

    def begin(self):
        self.server.start()
        self.account = self.server.create_account(DOMAIN)
        self.clients = Clients(self.server, self.account, self.ledger, self.chance)

    def round(self, fault):
        """One fault under load, and what comes after it."""
        self.marks.append((time.monotonic(), (self.server.folder / "log").stat().st_size))
        refused_before = sum(self.ledger.refused.values())
        self.faults.arm(fault)
        deadline = time.monotonic() + REACH_SECONDS
        while not self.faults.control.hits and time.monotonic() < deadline:
            time.sleep(0.01)
        is_reached = self.faults.control.hits > 0
        time.sleep(HOLD_SECONDS if fault.count == FOREVER else 0.2)
        path = self.faults.control.path.decode()
        self.faults.disarm()
        if not is_reached:
            self.unreached += 1
            return
        key = str(fault).rpartition(": ")[2]
        self.counts[fault.kind, key] = self.counts.get((fault.kind, key), 0) + 1
        said = self.recover(fault)
        with open(self.server.folder / "log", errors="replace") as log:
            log.seek(max((size for at, size in self.marks if at < self.marks[-1][0] - LOG_INTERVAL_SECONDS), default=0))
            said += log.read()
        refused = sum(self.ledger.refused.values()) - refused_before
        self.refusals += refused
        if refused and not NAMES_FILE.search(said):
            self.fail(fault, f"refused {refused}, but the log does not name the file ({path}): {said[-300:]}")
        while self.clients.faults:
            self.fail(fault, f"{self.clients.faults.pop()} ({path})")

    def recover(self, fault):
        """Waits until mail is accepted again; starts a server that has stopped."""
        began, accepted = time.time(), len(self.ledger.accepted)
        while time.time() < began + PATIENCE_SECONDS:
            if self.server.process.poll() is not None:
                return self.start_again(fault)
            if len(self.ledger.accepted) > accepted + CLIENTS:
                return ""
            time.sleep(0.02)
        self.fail(fault, "no mail is accepted after the fault")
        self.server.kill()
        return self.start_again(None)

    def start_again(self, fault):
        self.stopped += 1
        said = self.server.log_tail()
        if fault and (self.server.process.returncode <= 0 or not NAMES_FILE.search(said)):
            self.fail(fault, f"the server ended with {self.server.process.returncode}: {said[-300:]}")
        self.clients.is_down.set()
        self.server.start()
        self.clients.is_down.clear()
        return said

    def start_round(self, fault):
        """One fault while the server starts."""
        self.faults.arm(fault)
        self.server.start(wait=False)
        deadline = time.monotonic() + REACH_SECONDS
        while time.monotonic() < deadline and self.server.process.poll() is None and not self.is_ready():
            time.sleep(0.02)
        is_reached = self.faults.control.hits > 0
        self.faults.disarm()
        code = self.server.process.poll()
        if is_reached:
            self.counts["at start", fault.kind] = self.counts.get(("at start", fault.kind), 0) + 1
        else:
            self.unreached += 1
        if code is not None:
            said = self.server.log_tail().splitlines()[-1]
            self.stopped += 1
            if code <= 0 or not NAMES_FILE.search(said):
                self.fail(fault, f"at start, the server ended with {code}: {said[-300:]}")
            self.server.start()
        else:
            self.server.wait_until_ready()
        self.server.kill()

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.server.api), timeout=1):
                return True
        except OSError:
            return False

    def check(self):
        """Everything with a 250 is there. The server does not run."""
        try:
            check_database(self.data, self.ledger.accepted, [], self.ledger, set())
        except Failure as failure:
            self.failed.append(str(failure))
            print(f"  FAILED: {failure}", flush=True)

    def fail(self, fault, text):
        self.failed.append(text)
        print(f"  FAILED after {fault}: {text}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=300)
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pillarbox-faults-") as folder:
        run = Run(pathlib.Path(folder), options.seed)
        try:
            run.begin()
            for number in range(options.rounds):
                run.round(sample(run.chance))
                if number % 20 == 19:
                    print(f"{number + 1} faults, {len(run.ledger.accepted)} accepted, {run.refusals} refused", flush=True)
            run.clients.stop()
            run.server.kill()
            run.server.start()
            run.server.kill()
            run.check()
            for _ in range(options.rounds // 3):
                run.start_round(sample(run.chance, START_CALLS))
            run.server.start()
            run.server.stop()
            run.check()
        except BaseException:
            print(run.server.log_tail(), file=sys.stderr)
            raise
        finally:
            if hasattr(run, "clients"):
                run.clients.stop_event.set()
            if run.server.process and run.server.process.poll() is None:
                run.server.kill()
            run.sink.stop()
    for (kind, name), count in sorted(run.counts.items()):
        print(f"{kind:10} {name:12} {count:5}")
    print(
        f"seed {options.seed}: {sum(run.counts.values())} faults ({run.unreached} more were not reached), "
        f"{len(run.ledger.accepted)} messages accepted, {run.refusals} refused with {dict(run.ledger.refused)}, "
        f"the server ended {run.stopped} times, {len(run.failed)} FAILED"
    )
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
