"""What happens to a cluster under load. Each function makes one fault, requires what is promised during it, and returns what
it saw."""

import signal
import time

from ledger import Fault
from nodes import wait_until

# The others take over so long after the last heartbeat, and some time for the step itself.
LEASE_SECONDS = 15
TAKEOVER_SECONDS = LEASE_SECONDS + 2
# When the database is back, it is used so soon.
AGAIN_SECONDS = 3
# What this machine may take in addition, with all nodes on it.
DELAY_SECONDS = 1


def kill_node(cluster, node, chance):
    """A node dies and starts again at once: it takes over from itself."""
    with fault_of(cluster, node):
        node.kill()
        waited = cluster.wait_for_accepted(5, "by the others")
        node.start()
    return f"the others accepted after {waited:.1f} s"


def lose_node(cluster, node, chance):
    """A node dies and stays away: the others take over what it had."""
    with fault_of(cluster, node):
        lease = Lease(cluster, node)
        node.kill()
        taken = lease.wait_until_dead()
    node.start()
    return f"taken over {taken:.1f} s after its last heartbeat"


def stop_node(cluster, node, chance):
    """A node stands still until others have taken over, then goes on."""
    with fault_of(cluster, node):
        lease = Lease(cluster, node)
        node.process.send_signal(signal.SIGSTOP)
        try:
            taken = lease.wait_until_dead()
        finally:
            node.process.send_signal(signal.SIGCONT)
        again = seconds_until_it_accepts(cluster, node, time.monotonic())
        lease.require_new_epoch()
    return f"taken over {taken:.1f} s after its last heartbeat, accepts {again:.1f} s after it went on"


def kill_database(cluster, node, chance):
    """The database dies and recovers. No result is forgotten meanwhile."""
    with fault_of(cluster, None):
        cluster.database.kill()
        time.sleep(chance.uniform(0, 2))
        cluster.database.start()
        waited = cluster.wait_for_accepted(5, "after the database is back")
    require(waited <= AGAIN_SECONDS + DELAY_SECONDS, f"nothing was accepted for {waited:.1f} s")
    return f"accepted {waited:.1f} s after it was back"


class Lease:
    """The lease of a node, as the database has it."""

    def __init__(self, cluster, node):
        self.database, self.node_id = cluster.database, node.node_id
        self.epoch = self._live_epoch()

    def _live_epoch(self):
        sql = f"SELECT epoch FROM node WHERE node_id = '{self.node_id}' AND state = 'live'"
        return int(self.database.query(sql)[0])

    def wait_until_dead(self):
        """Returns the time from the last heartbeat to the takeover, which no node may begin before the lease has ended."""
        sql = f"""SELECT state, extract(epoch FROM clock_timestamp() - lease_until) FROM node WHERE epoch = {self.epoch}"""

        def since_end():
            state, seconds = self.database.query(sql)[0].split("|")
            return (float(seconds),) if state == "dead" else None

        (seconds,) = wait_until(since_end, "no node has taken over", LEASE_SECONDS + 2 * TAKEOVER_SECONDS)
        require(
            0 <= seconds <= TAKEOVER_SECONDS - LEASE_SECONDS + DELAY_SECONDS,
            f"taken over {seconds} s after the end of the lease",
        )
        return seconds + LEASE_SECONDS

    def require_new_epoch(self):
        epoch = self._live_epoch()
        require(epoch > self.epoch, f"the node still has epoch {epoch}")


class fault_of:
    """Notes in the ledger that a node does not record its results meanwhile, or that the database is away."""

    def __init__(self, cluster, node):
        self.cluster, self.fault = cluster, Fault(node, 0)

    def __enter__(self):
        self.fault.began = time.monotonic()
        with self.cluster.ledger.lock:
            self.cluster.ledger.faults.append(self.fault)

    def __exit__(self, *_):
        self.fault.ended = time.monotonic()


def seconds_until_it_accepts(cluster, node, since):
    failure = f"{node.folder.name} accepts nothing after the fault"
    accepted = wait_until(lambda: cluster.ledger.accepted_at(node, since), failure)
    return accepted - since


def require(condition, failure):
    if not condition:
        raise AssertionError(failure)
