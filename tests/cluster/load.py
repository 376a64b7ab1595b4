"""Clients that submit to a node all the time and note each answer."""

import random
import re
import smtplib
import ssl
import threading
import time

from crash import SENDER, recipient
from ledger import Attempt

# Longer than a node may take to say that it does not know.
ANSWER_SECONDS = 40
RETRY_SECONDS = 0.2
# Recipients of a message.
COUNTS = (1, 1, 1, 3, 10)
# Octets of a message; from 256 KiB on, its content is apart from it.
SIZES = (200, 5_000, 20_000, 400_000)


class Load:
    """`pause` is the time between two submissions of a client, whose delivery begins `hold` seconds later. `counts` are the
    possible numbers of recipients."""

    def __init__(
        self, nodes, account, ledger, chance, clients_per_node=3, pause=0, hold=0, counts=COUNTS, sizes=SIZES
    ):
        self.account, self.ledger = account, ledger
        self.pause, self.hold = pause, hold
        self.counts, self.sizes = counts, sizes
        self.stop_event = threading.Event()
        self.threads = [
            threading.Thread(target=self._submit_until_stopped, args=(node, random.Random(chance.random())))
            for node in nodes * clients_per_node
        ]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stop_event.set()
        for thread in self.threads:
            thread.join()

    def _submit_until_stopped(self, node, chance):
        while not self.stop_event.is_set():
            attempt = Attempt(node, time.monotonic(), 0, None)
            try:
                with connect(node, self.account) as smtp:
                    while not self.stop_event.is_set():
                        self._submit(smtp, node, chance)
                        self.stop_event.wait(self.pause)
                    attempt = None
            except Refusal:
                attempt = None
            except smtplib.SMTPResponseException as refusal:
                attempt.code = refusal.smtp_code
            except (OSError, smtplib.SMTPException):
                pass
            if attempt is not None:
                # Before a transaction: the refusal of a connection or of a login.
                attempt.ended = time.monotonic()
                self.ledger.note_attempt(attempt, [])
            self.stop_event.wait(RETRY_SECONDS)

    def _submit(self, smtp, node, chance):
        recipients = [recipient(chance) for _ in range(chance.choice(self.counts))]
        size = chance.choice(self.sizes)
        attempt = Attempt(node, time.monotonic(), 0, None)
        try:
            attempt.code, text = send(smtp, recipients, size, self.hold)
            if attempt.code == 250:
                self.ledger.accept(message_id(text), recipients)
        except (OSError, smtplib.SMTPException) as error:
            attempt.code = getattr(error, "smtp_code", None)
            raise Refusal from error
        finally:
            attempt.ended = time.monotonic()
            self.ledger.note_attempt(attempt, recipients)
        if attempt.code != 250:
            raise Refusal


class Refusal(Exception):
    """A submission without 250, which is noted already. The client continues on another connection."""


def connect(node, account):
    smtp = smtplib.SMTP("localhost", node.submission, timeout=ANSWER_SECONDS)
    smtp.starttls(context=ssl.create_default_context(cafile=node.ca_file))
    smtp.login(account.user, account.secret)
    return smtp


def message_id(text):
    """The id in an answer to DATA."""
    return re.search(rb"msg_\w+", text).group().decode()


def send(smtp, recipients, size=200, hold=0):
    """Returns the last answer."""
    code, text = smtp.mail(SENDER, [f"HOLDFOR={hold}"] if hold else [])
    for address in recipients:
        if code == 250:
            code, text = smtp.rcpt(address)
    if code != 250:
        return code, text
    lines = "".join(f"{n:070d}\r\n" for n in range(size // 72))
    body = f"From: {SENDER}\r\nTo: undisclosed-recipients:;\r\nSubject: cluster\r\n\r\n{lines}"
    return smtp.data(body.encode())
