"""Several nodes on one PostgreSQL, under load and faults: every accepted message must be delivered, queued or reported, and a
message is delivered twice only if a fault came between its delivery and the record of it. See `run`."""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time

from crash import DOMAIN, Ledger, answer_rcpt, client, drain
from postgres import Postgres
from server import PATIENCE_SECONDS, Server
from sink import Sink

CLIENTS_PER_NODE = 3
# The other nodes take over about 16 s after the last heartbeat.
TAKEOVER_SECONDS = 20


class Cluster:
    """The nodes, and clients that submit to each of them all the time."""

    def __init__(self, folder, nodes, sink_port):
        self.folder = folder
        self.postgres = Postgres(folder)
        key = folder + "/master.key"
        with open(key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f"{random.getrandbits(256):064x}\n")
        store = f'url = "{self.postgres.url}"'
        self.nodes = [
            Server(f"{folder}/node{number}", sink_port, store=store, top=f'master_key_file = "{key}"')
            for number in range(nodes)
        ]
        self.ledger = self.account = None
        self.stops, self.threads = [], []

    def start(self, ledger):
        self.ledger = ledger
        for node in self.nodes:
            node.start()
        self.account = self.nodes[0].create_account(DOMAIN)

    def submit(self, chance):
        """Starts the clients. Each submits over one connection after the other."""
        stop = threading.Event()
        for node in self.nodes * CLIENTS_PER_NODE:
            work = (node, stop, chance.random())
            self.threads.append(threading.Thread(target=self._submit_again_and_again, args=work))
            self.threads[-1].start()
        self.stops.append(stop)

    def _submit_again_and_again(self, node, stop, seed):
        # A seed for each connection: with the same one, the next connection would have the same recipients.
        seeds = random.Random(seed)
        while not stop.is_set():
            client(node, self.account, self.ledger, stop, seeds.random())

    def end_submissions(self):
        for stop in self.stops:
            stop.set()
        for thread in self.threads:
            thread.join()
        self.stops, self.threads = [], []

    def wait_for_accepted(self, more, what):
        """Returns after so many more recipients were accepted; how long that took."""
        began, before = time.monotonic(), len(self.ledger.accepted)
        while len(self.ledger.accepted) < before + more:
            if time.monotonic() > began + PATIENCE_SECONDS:
                raise RuntimeError(f"nothing is accepted {what}")
            time.sleep(0.01)
        return time.monotonic() - began


def kill_node(cluster, node, chance):
    """A node dies and starts again at once: it takes over from itself."""
    node.kill()
    waited = cluster.wait_for_accepted(5, "by the others")
    node.start()
    return f"killed, the others accepted after {waited:.1f} s"


def lose_node(cluster, node, chance):
    """A node dies and stays away: the others take over what it had."""
    node.kill()
    began = time.monotonic()
    while len(cluster.postgres.query("SELECT epoch FROM node WHERE state = 'live'")) == len(cluster.nodes):
        if time.monotonic() > began + TAKEOVER_SECONDS:
            raise RuntimeError(f"no node has taken over within {TAKEOVER_SECONDS} s")
        time.sleep(0.1)
    taken = time.monotonic() - began
    node.start()
    return f"killed, taken over after {taken:.1f} s"


def stop_node(cluster, node, chance):
    """A node stands still until others have taken over, then goes on."""
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(TAKEOVER_SECONDS)
    node.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    node.wait_until_ready()
    return f"stopped for {TAKEOVER_SECONDS} s, ready {time.monotonic() - began:.1f} s after it went on"


def kill_postgres(cluster, node, chance):
    """The database dies and recovers."""
    cluster.postgres.kill()
    time.sleep(chance.uniform(0, 2))
    cluster.postgres.start()
    waited = cluster.wait_for_accepted(5, "after the database is back")
    return f"database killed, accepted again {waited:.1f} s after it was back"


FAULTS = [kill_node, kill_postgres, lose_node, kill_node, kill_postgres, stop_node]


def main(arguments):
    chance = random.Random(arguments.seed)
    ledger = Ledger()
    sink = Sink(answer_rcpt, ledger.receive)
    with tempfile.TemporaryDirectory(prefix="pillarbox-cluster-") as folder:
        cluster = Cluster(folder, arguments.nodes, sink.port)
        try:
            cluster.start(ledger)
            for number in range(arguments.rounds):
                fault, node = FAULTS[number % len(FAULTS)], chance.choice(cluster.nodes)
                twice = duplicates(ledger)
                cluster.submit(chance)
                cluster.wait_for_accepted(20, "before the fault")
                time.sleep(chance.uniform(0, 0.8))
                what = fault(cluster, node, chance)
                cluster.end_submissions()
                twice = duplicates(ledger) - twice
                print(f"round {number + 1}: {what}; {len(ledger.accepted)} accepted, {twice} twice", flush=True)
            lost = drain(cluster.nodes[0], cluster.account, ledger)
            owned = cluster.postgres.query("SELECT count(*) FROM queue WHERE owner <> 0")
            for node in cluster.nodes:
                node.stop()
            left = cluster.postgres.query("SELECT count(*) FROM queue WHERE owner <> 0")
        except BaseException:
            for node in cluster.nodes:
                print(f"--- {node.folder}\n{node.log_tail()}", file=sys.stderr)
            raise
        finally:
            cluster.end_submissions()
            for node in cluster.nodes:
                if node.process and node.process.poll() is None:
                    node.kill()
            cluster.postgres.stop()
            sink.stop()
    return report(ledger, lost, owned, left, arguments)


def duplicates(ledger):
    with ledger.lock:
        return sum(count - 1 for count in ledger.delivered.values())


def report(ledger, lost, owned, left, arguments):
    accepted = len(ledger.accepted)
    print(
        f"seed {arguments.seed}, {arguments.nodes} nodes: {accepted} recipients accepted, {len(ledger.delivered)} delivered, "
        f"{duplicates(ledger)} twice, {len(lost)} LOST; claimed at the end {owned[0]}, after the stop {left[0]}"
    )
    for recipient, state in lost:
        print(f"LOST {recipient} ({ledger.accepted[recipient]}): {state}")
    return 1 if lost or left != ["0"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=len(FAULTS))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    sys.exit(main(parser.parse_args()))
