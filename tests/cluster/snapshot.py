"""Sessions of other programs hold a snapshot or a transaction open, while mail comes at a steady rate."""

import time

from faults import require
from nodes import Cluster, wait_until
from postgres import Postgres
from tail import Tail

WARM_UP_SECONDS = 5
# How long the state without a snapshot is measured, and a foreign transaction is held, at most.
COMPARED_SECONDS = 60
# Mail that is not due yet is claimed in the database later.
HOLD_SECONDS = 2
# The look for what is due, and the claim of it.
CLAIMS = "query ~ 'FROM queue' AND query ~ '(SKIP LOCKED|ORDER BY .*next_attempt_us)'"
CLAIM_MS = 10


def run(arguments, folder, chance):
    settings = ["shared_preload_libraries=pg_stat_statements", "autovacuum_naptime=5s"]
    database = Postgres(folder, settings=settings)
    try:
        database.query("CREATE EXTENSION pg_stat_statements")
        with Cluster(folder, arguments.nodes, [database]) as cluster:
            clients, counts = max(4, arguments.rate // 8), arguments.recipients or (1,)
            pause = clients * arguments.nodes / arguments.rate
            cluster.submit(chance, clients_per_node=clients, pause=pause, hold=HOLD_SECONDS, counts=counts)
            time.sleep(WARM_UP_SECONDS)
            before = measure(cluster, min(arguments.seconds, COMPARED_SECONDS))
            with database.open_transaction("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM queue"):
                held = measure(cluster, arguments.seconds)
            print(f"before: {before}\nwith an old snapshot: {held}", flush=True)
            print("\n".join(slowest(database)), flush=True)
            require(held.rate >= 0.95 * before.rate, "fewer deliveries are attempted")
            require(held.claim_ms <= max(CLAIM_MS, 2 * before.claim_ms), "claims take longer")
            require(held.hot >= 0.9, "updates are not HOT")
            cluster.end_submissions()
            print(write_beside(cluster, min(arguments.seconds, COMPARED_SECONDS)), flush=True)
            cluster.drain()
            cluster.check()
    finally:
        database.stop()


class Measured:
    """A time of steady load."""

    def __init__(self, seconds, attempted, claims, hot):
        self.rate, self.hot = attempted / seconds, hot
        self.claims, self.claim_ms, self.slowest_ms = claims

    def __str__(self):
        return f"{self.rate:.1f} attempts/s, {self.claims:.0f} look-ups and claims of {self.claim_ms:.2f} ms, at most {self.slowest_ms:.1f} ms, {self.hot:.1%} HOT"


def measure(cluster, seconds):
    database = cluster.database
    updates = updates_of_delivery(database)
    database.query("SELECT pg_stat_statements_reset()")
    attempted, began = attempts(cluster), time.monotonic()
    time.sleep(seconds)
    attempted, seconds = attempts(cluster) - attempted, time.monotonic() - began
    columns = "sum(calls), sum(total_exec_time) / sum(calls), max(max_exec_time)"
    claims = database.query(f"SELECT {columns} FROM pg_stat_statements WHERE {CLAIMS}")[0].split("|")
    # Sessions report what they did after up to a second.
    time.sleep(1.5)
    all_, hot = (now - was for now, was in zip(updates_of_delivery(database), updates))
    return Measured(seconds, attempted, [float(number) for number in claims], hot / all_)


def slowest(database):
    """The look-ups and claims that took the most time."""
    columns = "calls, round(mean_exec_time::numeric, 2) || ' ms', round(total_exec_time) || ' ms', substr(regexp_replace(query, '\\s+', ' ', 'g'), 1, 150)"
    sql = f"SELECT {columns} FROM pg_stat_statements WHERE {CLAIMS} ORDER BY total_exec_time DESC LIMIT 4"
    return database.query(sql)


def attempts(cluster):
    return sum(len(node.sink.transactions) for node in cluster.nodes)


def updates_of_delivery(database):
    """All, and those without new entries of indexes. Partitions are tables of their own."""
    tables = "relname ~ '^delivery(_w?[0-9]+)?$'"
    sql = f"SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_user_tables WHERE {tables}"
    return [int(number) for number in database.query(sql)[0].split("|")]


def write_beside(cluster, seconds):
    """A transaction of another program that writes does not hold the live tail back."""
    database = cluster.database
    database.query("CREATE TABLE foreign_table (number int)")
    tail = Tail(cluster.nodes[-1])
    slowest = 0
    with database.open_transaction("BEGIN; INSERT INTO foreign_table VALUES (1)"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen, began = len(tail.events), time.monotonic()
            wanted = {
                "name": "tail",
                "tenant_id": cluster.account.tenant_id,
                "environment": "live",
                "scopes": ["emails:read"],
            }
            cluster.nodes[0].call("POST", "/v1/keys", wanted)
            wait_until(
                lambda seen=seen: len(tail.events) > seen, "the tail waits for a foreign transaction", seconds
            )
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(1)
    tail.stop()
    require(slowest < 2, f"an event came {slowest:.1f} s late")
    return f"with a writing transaction of {seconds} s, the slowest event came after {slowest:.2f} s"
