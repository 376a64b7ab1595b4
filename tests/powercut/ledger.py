"""What clients know to be accepted, and since when; and what the sink has got."""

import collections
import dataclasses
import hashlib
import threading
import time


@dataclasses.dataclass
class Accepted:
    """A message that got its 250. The clock is that of the record."""

    clock: float
    id: str
    recipients: list
    sha256: str


@dataclasses.dataclass
class Changed:
    """A row that the API has answered for: it exists or not."""

    clock: float
    table: str
    id: str
    exists: bool


def digest(octets):
    return hashlib.sha256(octets).hexdigest()


class Ledger:
    def __init__(self):
        self.lock = threading.Lock()
        self.accepted = []
        self.changed = []
        self.delivered = collections.defaultdict(set)  # recipient -> digests of what it got
        self.refused = collections.Counter()  # codes

    def accept(self, message_id, recipients, content):
        entry = Accepted(time.time(), message_id, recipients, digest(content))
        with self.lock:
            self.accepted.append(entry)

    def change(self, table, row_id, exists=True):
        entry = Changed(time.time(), table, row_id, exists)
        with self.lock:
            self.changed.append(entry)

    def refuse(self, code):
        with self.lock:
            self.refused[code] += 1

    def receive(self, message):
        with self.lock:
            for recipient in message.recipients:
                # The header grows on the way, and the rest must not change.
                self.delivered[recipient].add(digest(body_of(message.content)))

    def accepted_before(self, clock):
        return [one for one in self.accepted if one.clock <= clock]

    def changed_before(self, clock):
        """The last answer for each row. A row whose next change was not answered yet may have either state."""
        last = {}
        for one in sorted(self.changed, key=lambda one: one.clock):
            if one.clock <= clock:
                last[one.table, one.id] = one
        later = {(one.table, one.id) for one in self.changed if one.clock > clock}
        return [one for key, one in last.items() if key not in later]


def body_of(content):
    return content.partition(b"\r\n\r\n")[2]
