"""Replaces the server with `pillarbox upgrade` under load. See `run`."""

import collections
import ctypes
import os
import re
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from server import BINARY, Server
from sink import Sink

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
CLIENTS = 16
MESSAGES_PER_CONNECTION = 5
BETWEEN_SECONDS = 2
DRAIN_SECONDS = 120
# `handover_deadline`, and the time to start.
GREETING_MAX_SECONDS = 20 + 2
PR_SET_CHILD_SUBREAPER = 36


class Ledger:
    """What the clients and the sink saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = set()
        self.delivered = collections.Counter()
        self.broken = []
        self.told_to_come_back = 0
        self.longest_greeting = 0.0

    def receive(self, message):
        with self.lock:
            self.delivered.update(message.recipients)

    def missing(self):
        with self.lock:
            return self.accepted - self.delivered.keys()


class ComeBack(Exception):
    """The server says 421, as it does to every session when it stops."""


class Pace:
    """Lets through so many messages in a second."""

    def __init__(self, rate):
        self.lock = threading.Lock()
        self.interval = 1 / rate
        self.next = time.monotonic()

    def wait(self):
        with self.lock:
            now = time.monotonic()
            self.next = max(self.next, now - 1) + self.interval
            delay = self.next - now
        if delay > 0:
            time.sleep(delay)


def client(server, account, ledger, pace, stop, number):
    """Sends over new connections until `stop`. A connection that breaks without 421 is a fault."""
    context = ssl.create_default_context(cafile=server.ca_file)
    sent = 0
    while not stop.is_set():
        try:
            with connection(server, account, ledger, context) as smtp:
                for _ in range(MESSAGES_PER_CONNECTION):
                    pace.wait()
                    submit(smtp, f"take-{number}-{sent}@d{sent % 10}.example", ledger)
                    sent += 1
        except ComeBack:
            with ledger.lock:
                ledger.told_to_come_back += 1
            sent += 1
        except (OSError, smtplib.SMTPException) as error:
            with ledger.lock:
                ledger.broken.append(f"{type(error).__name__}: {error}")
            sent += 1


class Session(smtplib.SMTP):
    """A client for which 421 is no fault, whatever it comes in answer to, and at which the goodbye may fail."""

    def getreply(self):
        code, text = super().getreply()
        if code == 421:
            self.close()
            raise ComeBack
        return code, text

    def __exit__(self, *_):
        try:
            self.quit()
        except (ComeBack, OSError, smtplib.SMTPException):
            self.close()


def connection(server, account, ledger, context):
    begun = time.monotonic()
    smtp = Session("localhost", server.submission, timeout=60)
    with ledger.lock:
        ledger.longest_greeting = max(ledger.longest_greeting, time.monotonic() - begun)
    smtp.starttls(context=context)
    smtp.login(account.user, account.secret)
    return smtp


def submit(smtp, recipient, ledger):
    body = f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: upgrade\r\n\r\nHello.\r\n"
    for code, text in (smtp.mail(SENDER), smtp.rcpt(recipient)):
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
    code, text = smtp.data(body.encode())
    if code != 250:
        raise smtplib.SMTPResponseException(code, text)
    with ledger.lock:
        ledger.accepted.add(recipient)


class NewProcess:
    """A process that the server has started, as `subprocess.Popen`. It is our child, because we adopt orphans."""

    def __init__(self, pid):
        self.pid = pid
        self.status = None

    def poll(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def wait(self, timeout=60):
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("pillarbox", timeout)
            time.sleep(0.01)
        return self.status

    def send_signal(self, number):
        os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def upgrade(server):
    """Replaces the process of the server. Returns the seconds that it took."""
    begun = time.monotonic()
    said = subprocess.run(
        [BINARY, "upgrade", "--config", server.config], capture_output=True, text=True, timeout=120
    )
    if said.returncode != 0:
        raise RuntimeError(f"{said.stdout}{said.stderr}")
    seconds = time.monotonic() - begun
    code = server.process.wait(60)
    if code != 0:
        raise RuntimeError(f"the old process ended with {code}")
    server.process = NewProcess(int(re.search(r"handed over to \S+ \(process (\d+)\)", said.stdout).group(1)))
    return seconds


def main(rounds, rate):
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    ledger, pace, stop = Ledger(), Pace(rate), threading.Event()
    sink = Sink(None, ledger.receive)
    with tempfile.TemporaryDirectory(prefix="pillarbox-upgrade-") as folder:
        server = Server(folder, sink.port)
        server.start()
        try:
            account = server.create_account(DOMAIN)
            threads = [
                threading.Thread(target=client, args=(server, account, ledger, pace, stop, number))
                for number in range(CLIENTS)
            ]
            begun = time.monotonic()
            for thread in threads:
                thread.start()
            for number in range(rounds):
                time.sleep(BETWEEN_SECONDS)
                seconds = upgrade(server)
                print(f"upgrade {number + 1}: {seconds:.2f} s, {len(ledger.accepted)} accepted so far", flush=True)
            time.sleep(BETWEEN_SECONDS)
            stop.set()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - begun
            wait_for_deliveries(ledger)
            server.stop()
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            stop.set()
            if server.process.poll() is None:
                server.kill()
            sink.stop()
    return report(ledger, seconds)


def wait_for_deliveries(ledger):
    deadline = time.monotonic() + DRAIN_SECONDS
    while ledger.missing() and time.monotonic() < deadline:
        time.sleep(0.1)


def report(ledger, seconds):
    lost = ledger.missing()
    duplicates = sum(count - 1 for count in ledger.delivered.values())
    print(f"{len(ledger.accepted)} accepted, {len(ledger.accepted) / seconds:.0f} per second, {len(lost)} LOST,")
    print(f"{duplicates} duplicates, {ledger.told_to_come_back} sessions were told to come back (421),")
    print(f"{len(ledger.broken)} connections refused or broken, longest wait for a greeting {ledger.longest_greeting:.2f} s")
    for fault, count in collections.Counter(ledger.broken).most_common(10):
        print(f"BROKEN {count} times: {fault}")
    late = ledger.longest_greeting > GREETING_MAX_SECONDS
    return 1 if lost or ledger.broken or late or not ledger.accepted else 0


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(arguments + [10, 500][len(arguments) :])))
