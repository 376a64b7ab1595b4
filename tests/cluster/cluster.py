"""Several nodes on one PostgreSQL under load, with faults. See `run`."""

import argparse
import random
import sys
import tempfile
import time

import failover
import faults
import limits
import partition
import snapshot
import versions
from load import COUNTS, SIZES
from nodes import Cluster
from postgres import Postgres
from tail import TailPair


def main(arguments):
    print(f"seed {arguments.seed}, {arguments.nodes} nodes")
    for name in arguments.scenarios or SHORT:
        with tempfile.TemporaryDirectory(prefix="pillarbox-cluster-") as folder:
            began = time.monotonic()
            chance = random.Random(f"{arguments.seed} {name}")
            SCENARIOS[name](arguments, folder, chance)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def under_faults(arguments, folder, chance):
    """Nodes and the database are killed, stopped and cut off."""
    database = Postgres(folder)
    try:
        with Cluster(folder, arguments.nodes, [database]) as cluster:
            cluster.partition_seconds = arguments.partition
            tails = TailPair(cluster)
            for number in range(arguments.rounds or len(arguments.faults)):
                fault, node = arguments.faults[number % len(arguments.faults)], chance.choice(cluster.nodes)
                cluster.submit(chance, counts=arguments.recipients or COUNTS, sizes=arguments.size)
                cluster.wait_for_accepted(20, "before the fault")
                time.sleep(chance.uniform(0, 0.8))
                seen = fault(cluster, node, chance)
                cluster.end_submissions()
                recorded = cluster.wait_for_records()
                seen = f"{seen}, all results recorded {recorded:.1f} s later"
                print(f"{number + 1} {fault.__name__} {node.folder.name}: {seen}", flush=True)
            cluster.drain()
            tails.check()
            cluster.check()
    finally:
        database.stop()


SHORT_FAULTS = [faults.kill_node, faults.kill_database, partition.drop, faults.stop_node, partition.lose_answers]
OTHER_FAULTS = [faults.lose_node, partition.stall]
FAULTS = {fault.__name__: fault for fault in SHORT_FAULTS + OTHER_FAULTS}

SCENARIOS = {
    "faults": under_faults,
    "failover": failover.fail_over_again_and_again,
    "standby": failover.lose_standby,
    "limits": limits.run,
    "snapshot": snapshot.run,
    "versions": versions.run,
}
SHORT = ["faults", "failover", "standby", "limits"]


def fault_list(text):
    return [FAULTS[name] for name in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"of {', '.join(SCENARIOS)}; default: {', '.join(SHORT)}",
    )
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0, help="default: each fault once")
    parser.add_argument("--faults", type=fault_list, default=SHORT_FAULTS, help=f"of {','.join(FAULTS)}")
    parser.add_argument(
        "--partition", type=float, default=0, help="seconds; at least until the others have taken over"
    )
    parser.add_argument("--recipients", type=int, nargs="+", help="of each message, by chance")
    parser.add_argument("--size", type=int, nargs="+", default=SIZES, help="octets of each message, by chance")
    parser.add_argument("--limit", type=int, default=200, help="recipients per minute of the send limit")
    parser.add_argument("--seconds", type=float, default=6, help="how long a snapshot or a transaction is held")
    parser.add_argument("--rate", type=int, default=20, help="submissions per second beside a snapshot")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    main(parser.parse_args())
