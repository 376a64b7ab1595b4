"""Backups of a server under load, and the restore of the last one. See `run`."""

import dataclasses
import datetime
import json
import pathlib
import random
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from server import BINARY, PATIENCE_SECONDS, Server
from sink import Sink

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
CLIENTS = 8
SMALL_OCTETS, LARGE_OCTETS = 10_000, 400_000
# One message in so many is large, so that its body has a file of its own.
LARGE_ONE_IN = 50
# After a backup, the server empties its write-ahead log.
SETTLE_SECONDS = 2
# A copy that begins anew at every commit would never end.
BACKUP_SECONDS = 600
DRAIN_SECONDS = 120
# The part of the rate without backups that must be left beside them. The backups of the short run take moments, so that its
# figures vary; it finds a server that stands still.
RATE_LEFT_MIN, RATE_LEFT_MIN_SHORT = 0.9, 0.2
# With less accepted/s, the long run shows little.
LOAD_MIN = 500


class Ledger:
    """When each recipient was acknowledged to the client, and when the sink had the message."""

    def __init__(self):
        self.lock = threading.Lock()
        self.acknowledged = {}
        self.received = {}

    def acknowledge(self, recipient):
        with self.lock:
            self.acknowledged[recipient] = time.time()

    def receive(self, message):
        with self.lock:
            for recipient in message.recipients:
                self.received.setdefault(recipient, time.time())

    def count(self):
        return len(self.acknowledged)


def answer_rcpt(address):
    """Some mail stays open, so that every backup has deliveries to release."""
    return "452 4.2.2 mailbox full" if address.startswith("defer-") else None


def client(server, account, ledger, stop, seed):
    chance = random.Random(seed)
    context = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP("localhost", server.submission, timeout=PATIENCE_SECONDS) as smtp:
        smtp.starttls(context=context)
        smtp.login(account.user, account.secret)
        while not stop.is_set():
            kind = "defer" if chance.randrange(20) == 0 else "take"
            recipient = f"{kind}-{chance.getrandbits(64):016x}@d{chance.randrange(10)}.example"
            octets = LARGE_OCTETS if chance.randrange(LARGE_ONE_IN) == 0 else SMALL_OCTETS
            submit(smtp, recipient, octets)
            ledger.acknowledge(recipient)


def submit(smtp, recipient, octets):
    lines = "".join(f"{number:070d}\r\n" for number in range(octets // 72))
    content = f"From: {SENDER}\r\nTo: undisclosed-recipients:;\r\nSubject: backup\r\n\r\n{lines}"
    smtp.sendmail(SENDER, [recipient], content)


def pillarbox(*arguments):
    """Runs the program. Returns its exit status and its output."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=BACKUP_SECONDS)
    return done.returncode, done.stdout + done.stderr


class Load:
    """Clients that submit until the end of the block."""

    def __init__(self, server, account, ledger):
        self.ledger = ledger
        self.stop = threading.Event()
        self.threads = [
            threading.Thread(target=client, args=(server, account, ledger, self.stop, seed)) for seed in range(CLIENTS)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def rate_during(self, work):
        """Does the work. Returns the messages per second that were acknowledged meanwhile, and how long it took."""
        before, began = self.ledger.count(), time.monotonic()
        work()
        seconds = max(time.monotonic() - began, 0.001)
        return (self.ledger.count() - before) / seconds, seconds

    def rate_alone(self, seconds):
        time.sleep(SETTLE_SECONDS)
        return self.rate_during(lambda: time.sleep(seconds))[0]


@dataclasses.dataclass
class Figures:
    """A backup and the rates around it. The database grows from one backup to the next, and a larger one accepts less, so
    each backup is compared with the moments before and after it."""

    alone: float
    beside: float
    seconds: float
    open_deliveries: int


def backups(server, load, count, alone_seconds):
    """Makes backups and checks each. Returns the last one and the figures."""
    folder = server.folder / "backups"
    folder.mkdir()
    key = server.folder / "data/master.key"
    last, figures = None, []
    for number in range(count):
        target = folder / f"{number:02}"
        since = ["--since", last] if last else []

        def create():
            code, said = pillarbox("backup", "create", "--config", server.config, target, *since)
            assert code == 0, said

        before = load.rate_alone(alone_seconds)
        beside, seconds = load.rate_during(create)
        alone = (before + load.rate_alone(alone_seconds)) / 2
        began = time.monotonic()
        code, said = pillarbox("backup", "verify", target, "--master-key", key)
        assert code == 0, said
        manifest = json.loads((target / "manifest.json").read_text())
        octets = manifest["database"]["octets"] + manifest["body_octets"]
        figures.append(Figures(alone, beside, seconds, manifest["open_deliveries"]))
        print(
            f"backup {number + 1}: {manifest['rows']['message']} messages, {octets / 2**20:.0f} MiB in {seconds:.1f} s, "
            f"{beside:.0f} accepted/s beside it, {alone:.0f} before and after ({100 * beside / alone:.0f} %), "
            f"verified in {time.monotonic() - began:.1f} s",
            flush=True,
        )
        if last:
            shutil.rmtree(last)
        last = target
    return last, figures


def kill_one(server):
    """Kills a backup in its work: nothing that verifies is left."""
    target = server.folder / "backups/killed"
    process = subprocess.Popen(
        [BINARY, "backup", "create", "--config", server.config, target, "--rate", "1KiB"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (left := list(target.parent.glob("killed.partial-*"))):
        assert process.poll() is None and time.monotonic() < deadline, "the backup works"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not target.exists()
    code, said = pillarbox("backup", "verify", left[0])
    assert code == 2 and "damaged" in said, (code, said)


def wait_until(what, probe):
    deadline = time.monotonic() + DRAIN_SECONDS
    while not probe():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not in time: {what}")
        time.sleep(0.1)


def restore(server, backup, folder, account):
    """Restores the backup into a second server. Returns its server, its ledger and its sink, before anything is released."""
    ledger = Ledger()
    sink = Sink(on_message=ledger.receive)
    second = Server(folder, sink.port)
    shutil.rmtree(second.folder / "data")
    (second.folder / "data").mkdir(mode=0o700)
    shutil.copy(server.folder / "data/master.key", second.folder / "data/master.key")
    code, said = pillarbox("backup", "restore", backup, "--config", second.config, "--yes")
    assert code == 0, said
    print(said, end="", flush=True)
    second.platform_secret = server.platform_secret
    second.start()
    # Mail that is accepted now is delivered at once, and shows that the relay works.
    context = ssl.create_default_context(cafile=second.ca_file)
    with smtplib.SMTP("localhost", second.submission, timeout=PATIENCE_SECONDS) as smtp:
        smtp.starttls(context=context)
        smtp.login(account.user, account.secret)
        submit(smtp, "new@d0.example", SMALL_OCTETS)
    wait_until("new mail is delivered by the restored server", lambda: ledger.received)
    assert list(ledger.received) == ["new@d0.example"], "nothing else is sent before the release"
    return second, ledger, sink


def main(is_short):
    count, alone_seconds = (3, 2) if is_short else (20, 5)
    ledger = Ledger()
    sink = Sink(answer_rcpt, ledger.receive)
    running = []
    with tempfile.TemporaryDirectory(prefix="pillarbox-backup-") as folder:
        folder = pathlib.Path(folder)
        server = Server(folder / "first", sink.port)
        server.start()
        running.append(server)
        try:
            account = server.create_account(DOMAIN)
            with Load(server, account, ledger) as load:
                last, figures = backups(server, load, count, alone_seconds)
                kill_one(server)
            server.stop()
            taken_at = json.loads((last / "manifest.json").read_text())["taken_at"]
            taken_at = datetime.datetime.fromisoformat(taken_at.replace("Z", "+00:00")).timestamp()
            second, after, second_sink = restore(server, last, folder / "second", account)
            running.append(second)
            released = second.call("POST", "/v1/queue/resume", {"restored": True})["released"]
            assert released == figures[-1].open_deliveries, (released, figures[-1])
            with ledger.lock:
                before = {r for r, at in ledger.acknowledged.items() if at <= taken_at}
                # The copy begins a moment after its time.
                delivered = {r for r, at in ledger.received.items() if at <= taken_at + 1}
            due = before - delivered
            assert due, "mail was open at the time of the backup"
            wait_until("what was acknowledged is delivered", lambda: due <= after.received.keys())
            repeated = len(after.received.keys() & ledger.received.keys())
            second.stop()
            second_sink.stop()
        except BaseException:
            for one in running:
                print(one.log_tail(), file=sys.stderr)
            raise
        finally:
            for one in running:
                if one.process.poll() is None:
                    one.kill()
            sink.stop()
    return report(is_short, figures, len(before), len(due), released, repeated)


def report(is_short, figures, acknowledged, due, released, repeated):
    # A longer backup counts for more.
    seconds = sum(one.seconds for one in figures)
    alone = sum(one.alone * one.seconds for one in figures) / seconds
    beside = sum(one.beside * one.seconds for one in figures) / seconds
    print(f"accepted/s before and after        {alone:8.0f}")
    print(f"accepted/s beside a backup         {beside:8.0f}   ({100 * beside / alone:.0f} %)")
    print(f"backups that verify                {len(figures):8}")
    print(f"slowest backup, seconds            {max(one.seconds for one in figures):8.1f}")
    print(f"acknowledged before the last one   {acknowledged:8}")
    print(f"of these open, and then delivered  {due:8}")
    print(f"deliveries released                {released:8}")
    print(f"delivered a second time            {repeated:8}")
    if not is_short and alone < LOAD_MIN:
        print(f"the load was less than {LOAD_MIN} accepted/s")
        return 1
    left_min = RATE_LEFT_MIN_SHORT if is_short else RATE_LEFT_MIN
    if beside < left_min * alone:
        print(f"less than {100 * left_min:.0f} % of the rate is left beside a backup")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv[1:]))
