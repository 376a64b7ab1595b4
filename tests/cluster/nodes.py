"""The nodes of a cluster, each with a proxy before the database and a site of its own to which it delivers."""

import os
import random
import sys
import time

from crash import DOMAIN, drain, state_of
from ledger import Ledger, NodeSink
from load import Load
from postgres import url
from proxy import Proxy
from server import BINARY, PATIENCE_SECONDS, Server

# Open deliveries that no node would find at their time, and rows of the queue without one.
UNQUEUED = """SELECT id FROM (SELECT id, next_attempt_us FROM delivery WHERE next_attempt_us IS NOT NULL) AS open
              FULL JOIN queue USING (id) WHERE open.next_attempt_us IS DISTINCT FROM queue.next_attempt_us"""


class Node(Server):
    """A server of the cluster. `servers` are the servers of the database, to each of which it gets a proxy."""

    def __init__(self, folder, servers, sink, master_key, binary, store):
        self.sink = sink
        sink.node = self
        self.proxies = [Proxy(server.port) for server in servers]
        store = f'url = "{url(*self.proxies)}"\n{store}'
        top = f'master_key_file = "{master_key}"'
        super().__init__(folder, sink.port, store=store, top=top, binary=binary)

    @property
    def node_id(self):
        return (self.folder / "data/node_id").read_text().strip()

    def end(self):
        if self.process and self.process.poll() is None:
            self.kill()
        self.sink.stop()
        for proxy in self.proxies:
            proxy.stop()


class Cluster:
    """Nodes on one database, with a tenant. The first of `servers` is its primary server."""

    def __init__(self, folder, count, servers, binary=BINARY, store=""):
        self.folder, self.servers = folder, servers
        self.ledger = Ledger()
        self.nodes, self.load, self.account = [], None, None
        self.lost = []
        self.master_key = folder + "/master.key"
        with open(self.master_key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"{random.getrandbits(256):064x}\n")
        for _ in range(count):
            self.add(binary, store)

    def add(self, binary=BINARY, store=""):
        folder = f"{self.folder}/node{len(self.nodes)}"
        node = Node(folder, self.servers, NodeSink(self.ledger), self.master_key, binary, store)
        self.nodes.append(node)
        return node

    @property
    def database(self):
        return self.servers[0]

    def __enter__(self):
        try:
            for node in self.nodes:
                node.start()
            self.account = self.nodes[0].create_account(DOMAIN)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            for node in self.nodes:
                print(f"--- {node.folder}\n{node.log_tail()}", file=sys.stderr)
        self.end()

    def end(self):
        self.end_submissions()
        for node in self.nodes:
            node.end()

    def submit(self, chance, **how):
        self.load = Load(self.nodes, self.account, self.ledger, chance, **how)

    def end_submissions(self):
        if self.load is not None:
            self.load.stop()
            self.load = None

    def wait_for_accepted(self, more, what):
        """Returns after so many more recipients were accepted; how long that took."""
        began, before = time.monotonic(), len(self.ledger.accepted)
        wait_until(lambda: len(self.ledger.accepted) >= before + more, f"nothing is accepted {what}")
        return time.monotonic() - began

    def wait_for_records(self):
        """Returns after the results of all deliveries are recorded; how long that took."""
        began = time.monotonic()
        sql = "SELECT count(*) FROM queue WHERE owner <> 0"
        wait_until(lambda: self.database.query(sql) == ["0"], "results are not recorded", 2 * PATIENCE_SECONDS)
        return time.monotonic() - began

    def drain(self):
        """Waits until each accepted message has a result or was tried. Keeps the others: no node is away that could have them."""
        node, ledger = self.nodes[0], self.ledger
        self.lost = drain(node, self.account, ledger)
        states = {
            recipient: state_of(node, self.account, recipient, message_id)
            for recipient, message_id in ledger.unaccounted().items()
        }
        self.lost += [(recipient, state) for recipient, state in states.items() if state == "queued"]

    def check(self):
        """Stops the nodes, and requires what holds after all faults."""
        lost = self.lost
        for node in self.nodes:
            node.stop()
        damaged = self.database.query("SELECT message_id FROM event WHERE kind = 'message.content_damaged'")
        claimed = self.database.query("SELECT count(*) FROM queue WHERE owner <> 0")
        unqueued = self.database.query(UNQUEUED)
        ledger = self.ledger
        for recipient, state in lost:
            print(f"LOST {recipient} ({ledger.accepted[recipient]}): {state}")
        for message_id in damaged:
            print(f"DAMAGED {message_id}")
        for delivery_id in unqueued:
            print(f"UNQUEUED {delivery_id}")
        for recipient, deliveries in ledger.unexplained().items():
            told = "250" if recipient in ledger.accepted else "no 250"
            print(f"REPEATED {recipient} ({told}): {', '.join(ledger.describe(*one) for one in deliveries)}")
        for attempt in ledger.permanent_refusals():
            print(f"REFUSED by {attempt.node.folder.name} with {attempt.code}")
        summary = (
            f"{len(ledger.accepted)} recipients accepted, {len(ledger.refused)} refused, {len(ledger.delivered)} delivered, "
            f"{ledger.duplicates()} twice, {len(ledger.unexplained())} of them without a reason, "
            f"the earliest {ledger.unrecorded_seconds():.2f} s before the fault, {len(lost)} LOST, {len(damaged)} DAMAGED, "
            f"{len(unqueued)} UNQUEUED"
        )
        print(summary)
        if lost or damaged or unqueued or ledger.unexplained() or ledger.permanent_refusals() or claimed != ["0"]:
            raise AssertionError(f"{summary}; claimed after the stop: {claimed[0]}")


def wait_until(condition, failure, seconds=PATIENCE_SECONDS):
    """Returns the value of a condition that has become true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(failure)
        time.sleep(0.01)
    return value
