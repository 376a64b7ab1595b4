"""The nodes are replaced one by one by a newer version, under load, while both serve one database."""

import os
import time

from faults import require
from nodes import Cluster
from postgres import Postgres
from server import BINARY
from tail import TailPair

BOTH_SECONDS = 3


def run(arguments, folder, chance):
    old = os.environ.get("PILLARBOX_OLD")
    if old is None:
        raise SystemExit("set PILLARBOX_OLD to a binary of the version before")
    database = Postgres(folder)
    try:
        with Cluster(folder, arguments.nodes, [database], binary=old) as cluster:
            tails = TailPair(cluster)
            before = schema(database)
            cluster.submit(chance)
            cluster.wait_for_accepted(20, "by the old version")
            for node in cluster.nodes:
                node.stop()
                cluster.wait_for_accepted(5, "by the others")
                node.binary = BINARY
                node.start()
                began = time.monotonic()
                time.sleep(BOTH_SECONDS)
                silent = [
                    other.folder.name for other in cluster.nodes if not cluster.ledger.accepted_at(other, began)
                ]
                require(not silent, f"{silent} accepted nothing beside the new version")
                print(f"{node.folder.name} is new: schema {before} -> {schema(database)}", flush=True)
            cluster.end_submissions()
            cluster.drain()
            tails.check()
            cluster.check()
    finally:
        database.stop()


def schema(database):
    return database.query("SELECT max(version) FROM schema_version")[0]
