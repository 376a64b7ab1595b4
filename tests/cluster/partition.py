"""A node is cut off from the database: it must accept and deliver nothing by the time at which others take over."""

import time

from faults import DELAY_SECONDS, Lease, fault_of, require, seconds_until_it_accepts
from load import Load
from nodes import wait_until

# Without heartbeats, a node accepts nothing and begins nothing after so long, and has ended its connections after so long.
STALE_SECONDS, LOST_SECONDS = 3, 10
# Who waits then gets an answer so soon, and who comes later in less.
WAIT_SECONDS, ANSWER_SECONDS = 20, 3
# After the partition, the node accepts again so soon.
AGAIN_SECONDS = 2
# Transactions that are in progress at its beginning.
HELD = 2


def drop(cluster, node, chance):
    """Connections are reset and refused."""
    return partition(cluster, node, chance, lambda proxy: proxy.drop())


def stall(cluster, node, chance):
    """What the node and the database send each other does not arrive; later, all of it does."""
    return partition(cluster, node, chance, lambda proxy: proxy.stall())


def lose_answers(cluster, node, chance):
    """What the node sends arrives, and the answers do not, so that it does not know what was committed."""
    return partition(cluster, node, chance, lambda proxy: proxy.stall(requests=False))


def partition(cluster, node, chance, begin):
    lease = Lease(cluster, node)
    node.sink.hold(HELD)
    wait_until(lambda: node.sink.held == 0, "nothing is being delivered")
    # Until now, the node records its results.
    with fault_of(cluster, node):
        began = time.monotonic()
        for proxy in node.proxies:
            begin(proxy)
        time.sleep(STALE_SECONDS + DELAY_SECONDS)
        # Clients that did not wait before.
        others = Load([node], cluster.account, cluster.ledger, chance)
        try:
            taken = lease.wait_until_dead()
            time.sleep(max(0, began + cluster.partition_seconds - time.monotonic()))
        finally:
            others.stop()
        healed = time.monotonic()
        for proxy in node.proxies:
            proxy.heal()
        again = seconds_until_it_accepts(cluster, node, healed)
        lease.require_new_epoch()
    seen = what_it_did(cluster.ledger, node, began, healed)
    seen["accepts again after"] = (again, AGAIN_SECONDS)
    text = ", ".join(f"{name} {seconds:.1f} s" for name, (seconds, _) in seen.items())
    text = f"taken over {taken:.1f} s after the last heartbeat; {text}"
    slow = [name for name, (seconds, bar) in seen.items() if seconds > bar + DELAY_SECONDS]
    require(not slow, f"too long: {slow}; {text}")
    require(len(node.sink.cut) == HELD, f"{HELD - len(node.sink.cut)} transactions did not end; {text}")
    return text


def what_it_did(ledger, node, began, healed):
    """Times during the partition, each with its limit."""
    attempts = [one for one in ledger.attempts_at(node, 0) if one.ended > began and one.began < healed]
    stale = began + STALE_SECONDS + DELAY_SECONDS
    waiting = [attempt for attempt in attempts if attempt.began < stale]
    new = [attempt for attempt in attempts if attempt.began >= stale and attempt.ended < healed]
    late = [attempt for attempt in new if attempt.code == 250]
    require(new and not late, f"{len(late)} of {len(new)} new submissions got 250")
    transactions = [when - began for when in list(node.sink.transactions) if began < when < healed]
    return {
        "longest wait": (longest(waiting), WAIT_SECONDS),
        "longest answer to new clients": (longest(new), ANSWER_SECONDS),
        "last transaction began after": (max(transactions, default=0), STALE_SECONDS),
        "last one ended after": (max(node.sink.cut, default=0) - began, LOST_SECONDS),
    }


def longest(attempts):
    return max((attempt.ended - attempt.began for attempt in attempts), default=0)
