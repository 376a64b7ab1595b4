"""Kills the server with SIGKILL at random moments under load: every accepted message must be delivered, queued or
reported. See `run`."""

import collections
import random
import re
import smtplib
import sqlite3
import ssl
import sys
import tempfile
import threading
import time

from server import PATIENCE_SECONDS, Refused, Server
from sink import Sink

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
CLIENTS = 6
DRAIN_SECONDS = 120
OPEN = {"queued", "deferred"}


class Ledger:
    """The accepted messages and their outcomes. The local part of a recipient is its id and decides the reply of the sink."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = {}  # recipient -> message id
        self.delivered = collections.Counter()
        self.reported = set()

    def accept(self, message_id, recipients):
        with self.lock:
            self.accepted |= dict.fromkeys(recipients, message_id)

    def receive(self, message):
        """Records a message that the sink got: one of ours, or a report of a failed one."""
        with self.lock:
            if message.reverse_path == "":
                final = re.findall(rb"^Final-Recipient: *rfc822; *(\S+)", message.content, re.M | re.I)
                self.reported |= {address.decode() for address in final}
            else:
                self.delivered.update(message.recipients)

    def unaccounted(self):
        with self.lock:
            return {
                recipient: message_id
                for recipient, message_id in self.accepted.items()
                if recipient not in self.delivered and recipient not in self.reported
            }


def answer_rcpt(address):
    if address.startswith("bounce-"):
        return "550 5.7.1 not here"
    if address.startswith("defer-"):
        return "452 4.2.2 mailbox full"
    return None


def main(rounds, seed):
    chance = random.Random(seed)
    ledger = Ledger()
    sink = Sink(answer_rcpt, ledger.receive)
    with tempfile.TemporaryDirectory(prefix="pillarbox-crash-") as folder:
        server = Server(folder, sink.port)
        server.start()
        try:
            account = server.create_account(DOMAIN)
            for number in range(rounds):
                submit_until_killed(server, account, ledger, chance)
                print(f"round {number + 1}: {len(ledger.accepted)} accepted, {len(ledger.delivered)} delivered")
                start_again(server, chance)
            lost = drain(server, account, ledger)
            server.stop()
            check_database(server)
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            if server.process.poll() is None:
                server.kill()
            sink.stop()
    return report(ledger, lost, seed)


def submit_until_killed(server, account, ledger, chance):
    """Several clients submit; the server is killed at a random moment."""
    stop = threading.Event()
    before = len(ledger.accepted)
    threads = [
        threading.Thread(target=client, args=(server, account, ledger, stop, chance.random()))
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(ledger.accepted) == before:
        if time.monotonic() > deadline:
            raise RuntimeError("nothing is accepted")
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.8))
    server.kill()
    stop.set()
    for thread in threads:
        thread.join()


def start_again(server, chance):
    """Starts the server; sometimes kills it again during the start."""
    while chance.random() < 0.25:
        server.start(wait=False)
        time.sleep(chance.uniform(0, 0.4))
        server.kill()
    server.start()


def client(server, account, ledger, stop, seed):
    """Submits over one connection until it breaks. Records a message only after its 250."""
    chance = random.Random(seed)
    context = ssl.create_default_context(cafile=server.ca_file)
    try:
        with smtplib.SMTP("localhost", server.submission, timeout=10) as smtp:
            smtp.starttls(context=context)
            smtp.login(account.user, account.secret)
            while not stop.is_set():
                recipients = [recipient(chance) for _ in range(chance.choice((1, 1, 1, 3, 10)))]
                size = chance.choice((200, 5_000, 20_000, 400_000))
                submit(smtp, recipients, size, ledger)
    except (OSError, smtplib.SMTPException):
        if not stop.is_set():
            stop.wait(1)


def recipient(chance):
    kind = chance.choices(("take", "bounce", "defer"), (18, 1, 1))[0]
    return f"{kind}-{chance.getrandbits(64):016x}@d{chance.randrange(10)}.example"


def submit(smtp, recipients, size, ledger):
    smtp.mail(SENDER)
    for address in recipients:
        code, text = smtp.rcpt(address)
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
    lines = "".join(f"{n:070d}\r\n" for n in range(size // 72))
    body = f"From: {SENDER}\r\nTo: undisclosed-recipients:;\r\nSubject: crash\r\n\r\n{lines}"
    code, text = smtp.data(body.encode())
    if code == 250:
        ledger.accept(re.search(rb"msg_\w+", text).group().decode(), recipients)


def drain(server, account, ledger):
    """Waits until deliveries and reports are complete. Returns messages that are neither delivered, queued nor reported."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        states = {
            recipient: state_of(server, account, recipient, message_id)
            for recipient, message_id in ledger.unaccounted().items()
        }
        unsettled = {r for r, state in states.items() if state != "deferred"} & ledger.unaccounted().keys()
        if not unsettled:
            return []
        if time.monotonic() > deadline:
            return [(r, states[r]) for r in unsettled if states[r] not in OPEN]
        time.sleep(0.2)


def state_of(server, account, recipient, message_id):
    try:
        email = server.call("GET", f"/v1/emails/{message_id}", secret=account.secret)
    except Refused as error:
        return str(error)
    return next((d["status"] for d in email["deliveries"] if d["recipient"] == recipient), "no such delivery")


def check_database(server):
    """Checks the integrity of the database after the kills."""
    files = list((server.folder / "data").glob("*.db"))
    assert files, "the database is where it was"
    for file in files:
        database = sqlite3.connect(file)
        faults = [row[0] for row in database.execute("PRAGMA quick_check")]
        assert faults == ["ok"], f"{file}: {faults}"
        database.close()


def report(ledger, lost, seed):
    accepted = ledger.accepted.keys()
    delivered = accepted & ledger.delivered.keys()
    duplicates = sum(count - 1 for recipient, count in ledger.delivered.items())
    reported = accepted & ledger.reported
    print(f"seed {seed}: {len(accepted)} recipients accepted, {len(delivered)} delivered, {len(reported)} reported,")
    print(f"{len(accepted - delivered - reported) - len(lost)} queued, {duplicates} duplicates, {len(lost)} LOST")
    for recipient, state in lost:
        print(f"LOST {recipient} ({ledger.accepted[recipient]}): {state}")
    return 1 if lost else 0


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(arguments + [20, random.randrange(1 << 32)][len(arguments) :])))
