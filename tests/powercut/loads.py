"""Loads of a recorded server: many small messages; bodies in files; everything else that writes."""

import contextlib
import dataclasses
import math
import random
import re
import smtplib
import ssl
import threading
import time

from ledger import body_of
from server import PATIENCE_SECONDS, Refused

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
# Larger bodies are files.
STORE = 'inline_body_max = "32 KiB"'
SMALL = (200, 2_000, 12_000)
LARGE = (40_000, 90_000, 400_000)


def answer_rcpt(address):
    if address.startswith("bounce-"):
        return "550 5.7.1 not here"
    if address.startswith("defer-"):
        return "452 4.2.2 mailbox full"
    return None


class Clients:
    """Each submits until the end of the block, or until its connection breaks."""

    def __init__(self, server, account, ledger, chance, count, sizes, kinds=("take",)):
        self.stop_event = threading.Event()
        self.threads = [
            threading.Thread(target=self.run, args=(server, account, ledger, chance.random(), sizes, kinds))
            for _ in range(count)
        ]

    def run(self, server, account, ledger, seed, sizes, kinds):
        chance = random.Random(seed)
        while not self.stop_event.is_set():
            try:
                with contextlib.closing(connect(server, account)) as smtp:
                    while not self.stop_event.is_set():
                        recipients = [
                            f"{chance.choice(kinds)}-{chance.getrandbits(64):016x}@d{chance.randrange(10)}.example"
                            for _ in range(chance.choice((1, 1, 1, 3)))
                        ]
                        submit(smtp, recipients, chance.choice(sizes), ledger, chance)
            except (OSError, smtplib.SMTPException):
                self.stop_event.wait(0.1)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop_event.set()
        for thread in self.threads:
            thread.join()


def connect(server, account):
    context = ssl.create_default_context(cafile=server.ca_file)
    smtp = smtplib.SMTP("localhost", server.submission, timeout=PATIENCE_SECONDS)
    smtp.starttls(context=context)
    smtp.login(account.user, account.secret)
    return smtp


def submit(smtp, recipients, size, ledger, chance):
    """Submits a message that no other has the content of. Returns the code of the reply."""
    lines = "".join(f"{chance.getrandbits(256):070x}\r\n" for _ in range(size // 72))
    content = f"From: {SENDER}\r\nTo: undisclosed-recipients:;\r\nSubject: cut\r\n\r\n{lines}end\r\n".encode()
    code, _ = smtp.mail(SENDER)
    for address in recipients:
        code = smtp.rcpt(address)[0] if code == 250 else code
    if code == 250:
        code, text = smtp.data(content)
        if code == 250:
            ledger.accept(re.search(rb"msg_\w+", text).group().decode(), recipients, body_of(content))
            return code
    ledger.refuse(code)
    if code == 421:
        # The server ends the session.
        raise smtplib.SMTPResponseException(code, b"")
    smtp.rset()
    return code


@dataclasses.dataclass
class Bed:
    """A recorded server that runs. `scale` is the part of the messages of a load."""

    server: object
    account: object
    ledger: object
    recorder: object
    chance: random.Random
    scale: float

    def clients(self, count, sizes, kinds=("take",)):
        return Clients(self.server, self.account, self.ledger, self.chance, count, sizes, kinds)

    def wait_for(self, count):
        while len(self.ledger.accepted) < count * self.scale:
            time.sleep(0.02)


def small_messages(bed):
    with bed.clients(16, SMALL):
        bed.wait_for(900)


def bodies_in_files(bed):
    with bed.clients(6, (*SMALL, *LARGE)):
        bed.wait_for(300)


def everything(bed):
    """Results of all kinds, suppressions, changes of the directory, a kill, stops and starts; each start removes the bodies
    of finished messages and truncates the write-ahead log."""
    kinds = ("take", "take", "bounce", "defer")
    for part, is_killed in enumerate((True, False, False), 1):
        with bed.clients(6, (*SMALL, *LARGE[:1]), kinds):
            while len(bed.ledger.accepted) < 100 * part * bed.scale:
                change_directory(bed)
            if is_killed:
                bed.server.kill()
        bed.server.stop()
        bed.server.start()
    with bed.clients(6, SMALL, kinds):
        bed.wait_for(400)


def failing_syncs(bed):
    """Syncs fail until the server is killed. The next one finds in the cache of the kernel what never came to the disk."""
    works, sizes = bed.server.binary, (*SMALL, *LARGE[:1])
    for _ in range(math.ceil(8 * bed.scale)):
        # Empties the write-ahead log.
        bed.server.stop()
        # A thread that opens the data directory makes fewer than ten.
        bed.server.binary = bed.recorder.failing_from(bed.chance.randrange(12, 40))
        bed.server.start()
        refused = sum(bed.ledger.refused.values())
        with bed.clients(6, sizes):
            while sum(bed.ledger.refused.values()) < refused + 10:
                time.sleep(0.01)
            bed.server.kill()
        bed.server.binary = works
        bed.server.start()
        accepted = len(bed.ledger.accepted)
        with bed.clients(3, sizes):
            while len(bed.ledger.accepted) < accepted + 25:
                time.sleep(0.01)


def change_directory(bed):
    server, account, ledger, chance = bed.server, bed.account, bed.ledger, bed.chance
    name = f"{chance.getrandbits(64):016x}.example"
    wanted = {"name": name, "tenant_id": account.tenant_id, "verification": "manual"}
    domain = server.call("POST", "/v1/domains", wanted)["id"]
    ledger.change("domain", domain)
    wanted = {"name": "a key", "tenant_id": account.tenant_id, "environment": "live", "scopes": ["smtp:send"]}
    ledger.change("key", server.call("POST", "/v1/keys", wanted)["id"])
    with contextlib.suppress(Refused):
        wanted = {"address": f"someone@{name}", "tenant_id": account.tenant_id}
        ledger.change("suppression", server.call("POST", "/v1/suppressions", wanted)["id"])
    server.call("DELETE", f"/v1/domains/{domain}")
    ledger.change("domain", domain, exists=False)


# The rows of `everything` that its server may remove at each start.
LOADS = {
    "small": (small_messages, ""),
    "bodies": (bodies_in_files, ""),
    "failing": (failing_syncs, ""),
    "everything": (everything, "[retention]\nbody_days = 0\n"),
}
