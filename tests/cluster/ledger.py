"""What the clients were told and what the sinks got, each with its time; and the rules that both must keep."""

import collections
import dataclasses
import time

import crash
from sink import Sink

# A result is recorded so soon after its delivery, unless there is a fault.
RECORD_SECONDS = 1


@dataclasses.dataclass
class Fault:
    """A time in which a node did not record its results. A fault of the database alone has no node."""

    node: object
    began: float
    ended: float = float("inf")


@dataclasses.dataclass
class Attempt:
    """A submission and its answer: `code` is `None` if the connection ended without one."""

    node: object
    began: float
    ended: float
    code: int | None


class Ledger(crash.Ledger):
    def __init__(self):
        super().__init__()
        self.attempts = []
        self.refused = set()  # recipients of messages without a 250
        self.deliveries = collections.defaultdict(list)  # recipient -> times and nodes
        self.faults = []

    def note_attempt(self, attempt, recipients):
        with self.lock:
            self.attempts.append(attempt)
            if attempt.code != 250:
                self.refused |= set(recipients)

    def receive_from(self, node, message):
        with self.lock:
            if message.reverse_path:
                for recipient in message.recipients:
                    self.deliveries[recipient].append((time.monotonic(), node))
        self.receive(message)

    def attempts_at(self, node, since):
        with self.lock:
            return [attempt for attempt in self.attempts if attempt.node is node and attempt.began >= since]

    def accepted_at(self, node, since):
        """The first 250 to a submission that began at this time or later."""
        accepted = [attempt.ended for attempt in self.attempts_at(node, since) if attempt.code == 250]
        return min(accepted, default=None)

    def duplicates(self):
        with self.lock:
            return sum(len(deliveries) - 1 for deliveries in self.deliveries.values())

    def unexplained(self):
        """Repeated deliveries, of which no fault of the node that made the former one prevented the record."""
        with self.lock:
            repeated = {who: sorted(of, key=first) for who, of in self.deliveries.items() if len(of) > 1}
            return {
                recipient: deliveries
                for recipient, deliveries in repeated.items()
                if not all(self._is_unrecorded(when, node) for when, node in deliveries[:-1])
            }

    def _is_unrecorded(self, when, node):
        return any(
            fault.node is node and fault.began - RECORD_SECONDS <= when <= fault.ended for fault in self.faults
        )

    def describe(self, when, node):
        """A delivery, and the fault before and after it."""
        before = [fault for fault in self.faults if fault.began <= when][-1:]
        after = [fault for fault in self.faults if fault.began > when][:1]
        name = lambda node: "database" if node is None else node.folder.name
        text = [f"fault of {name(fault.node)} {when - fault.began:+.2f} s" for fault in before + after]
        return f"by {name(node)} ({', '.join(text)})"

    def unrecorded_seconds(self):
        """The longest time from a delivery that was repeated to the fault."""
        with self.lock:
            former = [
                pair for deliveries in self.deliveries.values() for pair in sorted(deliveries, key=first)[:-1]
            ]
            ages = [
                fault.began - when
                for when, node in former
                for fault in self.faults
                if fault.node is node and when <= fault.ended and fault.began - when < RECORD_SECONDS
            ]
            return max(ages, default=0)

    def permanent_refusals(self):
        """No fault of a node or the database is the fault of a client."""
        with self.lock:
            return [attempt for attempt in self.attempts if attempt.code is not None and attempt.code >= 500]


def first(pair):
    return pair[0]


class NodeSink(Sink):
    """The site to which one node delivers."""

    def __init__(self, ledger):
        self.node = None
        self.transactions = collections.deque(maxlen=100_000)  # times
        self.held, self.cut = 0, []
        super().__init__(self._answer_rcpt, lambda message: ledger.receive_from(self.node, message))

    def hold(self, count):
        """Does not answer the next transactions any more. `cut` gets the times at which their node ended them."""
        self.held, self.cut = count, []

    def _answer_rcpt(self, address):
        self.transactions.append(time.monotonic())
        return crash.answer_rcpt(address)

    async def before_rcpt(self, reader):
        if self.held == 0:
            return
        self.held -= 1
        try:
            while await reader.read(1 << 16):
                pass
        finally:
            self.cut.append(time.monotonic())
        raise ConnectionResetError
