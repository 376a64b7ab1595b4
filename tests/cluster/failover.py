"""A synchronous standby becomes the primary server when that dies under load; and without the standby, nothing is accepted."""

import contextlib
import time

from faults import DELAY_SECONDS, require
from nodes import Cluster, wait_until
from partition import WAIT_SECONDS, longest
from postgres import Postgres

STANDBY_AWAY_SECONDS = 25


def fail_over_again_and_again(arguments, folder, chance):
    with cluster_with_standby(arguments, folder) as cluster:
        for number in range(arguments.rounds or 1):
            if number > 0:
                add_standby(cluster, folder, f"s{number + 1}")
            print(f"{number + 1} {fail_over(cluster, chance)}", flush=True)
        cluster.drain()
        cluster.check()


def lose_standby(arguments, folder, chance):
    with cluster_with_standby(arguments, folder) as cluster:
        print(be_without_standby(cluster, chance), flush=True)
        cluster.drain()
        cluster.check()


@contextlib.contextmanager
def cluster_with_standby(arguments, folder):
    primary = Postgres(folder, "s0")
    servers = [primary, follow(folder, primary, "s1")]
    try:
        with Cluster(folder, arguments.nodes, servers) as cluster:
            yield cluster
    finally:
        for server in servers:
            server.stop()


def follow(folder, primary, name):
    """A standby for which each commit waits from now on."""
    standby = Postgres(folder, name, primary=primary)
    require_standby(primary, name)
    return standby


def require_standby(primary, name):
    primary.query(f"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({name})'")
    primary.query("SELECT pg_reload_conf()")
    sql = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    wait_until(lambda: primary.query(sql), "the standby does not follow")


def be_without_standby(cluster, chance):
    standby, ledger = cluster.servers[1], cluster.ledger
    cluster.submit(chance)
    cluster.wait_for_accepted(20, "with the standby")
    standby.stop()
    began = time.monotonic()
    time.sleep(STANDBY_AWAY_SECONDS)
    ended = time.monotonic()
    standby.start()
    again = cluster.wait_for_accepted(5, "after the standby is back")
    cluster.end_submissions()
    attempts = [
        attempt for node in cluster.nodes for attempt in ledger.attempts_at(node, 0) if attempt.ended > began
    ]
    accepted = [attempt for attempt in attempts if attempt.code == 250 and began + 0.1 < attempt.ended < ended]
    text = f"without a standby, {len(accepted)} submissions got 250, the longest wait was {longest(attempts):.1f} s; accepted {again:.1f} s after it was back"
    require(not accepted and longest(attempts) <= WAIT_SECONDS + DELAY_SECONDS, text)
    return text


def fail_over(cluster, chance):
    primary, standby = cluster.servers
    refused = len(cluster.ledger.refused)
    cluster.submit(chance)
    cluster.wait_for_accepted(20, "before the failover")
    time.sleep(chance.uniform(0, 0.8))
    killed = time.monotonic()
    primary.kill()
    standby.query("SELECT pg_promote()", "postgres")
    cluster.servers.reverse()
    promoted = time.monotonic()
    cluster.wait_for_accepted(5, "after the failover")
    again = time.monotonic()
    cluster.end_submissions()
    return f"accepted {again - promoted:.1f} s after the failover and {again - killed:.1f} s after the death, {len(cluster.ledger.refused) - refused} recipients refused"


def add_standby(cluster, folder, name):
    """Replaces the server that died."""
    primary, dead = cluster.servers
    place = [
        node.proxies.index(proxy)
        for node in cluster.nodes
        for proxy in node.proxies
        if proxy.target == dead.port
    ]
    cluster.servers[1] = follow(folder, primary, name)
    for node, number in zip(cluster.nodes, place):
        node.proxies[number].target = cluster.servers[1].port
    dead.remove()
