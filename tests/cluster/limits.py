"""What all nodes share: send limits, keys, tenants and pauses."""

import contextlib
import random
import smtplib
import threading
import time

import faults
from crash import SENDER
from load import RETRY_SECONDS, connect, message_id, send
from nodes import Cluster, wait_until
from postgres import Postgres
from server import Refused

# A change must have arrived at the other nodes, on a machine that does much else.
CHANGE_SECONDS = 1 + faults.DELAY_SECONDS
RECIPIENTS = 10
# What the test of a limit may take.
LIMIT_SECONDS = 30
MESSAGE = f"From: {SENDER}\r\nSubject: limit\r\n\r\n.\r\n".encode()
# A node gives back what it has reserved and does not need.
GIVEN_BACK_SECONDS = 3


def run(arguments, folder, chance):
    database = Postgres(folder)
    try:
        with Cluster(folder, max(arguments.nodes, 4), [database]) as cluster:
            print(f"{send_limit(cluster, arguments.limit)}", flush=True)
            for change in (revoke_key, suspend_tenant, pause_destination):
                seconds = change(cluster)
                print(f"{change.__name__}: {seconds:.2f} s until all other nodes know", flush=True)
                faults.require(seconds <= CHANGE_SECONDS, f"{change.__name__} takes {seconds:.2f} s")
            cluster.drain()
            cluster.check()
    finally:
        database.stop()


def send_limit(cluster, limit):
    """All nodes accept as many recipients within a minute as the tenant may have, together."""
    tenant = f"/v1/tenants/{cluster.account.tenant_id}"
    cluster.nodes[0].call("PATCH", tenant, {"rate_limit": {"emails_per_minute": limit}})
    # Not across a minute.
    if (passed := time.time() % 60) > 60 - LIMIT_SECONDS:
        time.sleep(60 - passed)
    minute = time.time() // 60
    end = time.monotonic() + 60 - time.time() % 60
    accepted, done = [], threading.Event()
    threads = [
        threading.Thread(target=submit_until, args=(cluster, node, accepted, done))
        for node in cluster.nodes * 2
    ]
    for thread in threads:
        thread.start()
    try:
        while sum(accepted) < limit and time.monotonic() < end - 2 * GIVEN_BACK_SECONDS:
            time.sleep(0.05)
        time.sleep(GIVEN_BACK_SECONDS)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    text = f"{sum(accepted)} of {limit} recipients in a minute from {len(cluster.nodes)} nodes"
    faults.require(time.time() // 60 == minute and sum(accepted) == limit, text)
    cluster.nodes[0].call("PATCH", tenant, {"rate_limit": {"emails_per_minute": None}})
    return text


def submit_until(cluster, node, accepted, done):
    """Submits until the event. Notes how many recipients each message has."""
    while not done.is_set():
        with contextlib.suppress(OSError, smtplib.SMTPException), connect(node, cluster.account) as smtp:
            while not done.is_set():
                submit_what_is_left(cluster.ledger, smtp, accepted)
        done.wait(RETRY_SECONDS)


def submit_what_is_left(ledger, smtp, accepted):
    """Submits to the recipients that get 250."""
    smtp.mail(SENDER)
    names = [name for name in new_recipients(RECIPIENTS, "d0.example") if smtp.rcpt(name)[0] == 250]
    if not names:
        raise smtplib.SMTPException
    code, text = smtp.data(MESSAGE)
    if code == 250:
        accepted.append(len(names))
        ledger.accept(message_id(text), names)


def new_recipients(count, destination):
    return [f"{random.getrandbits(64):016x}@{destination}" for _ in range(count)]


def seconds_until_all(cluster, knows):
    began = time.monotonic()
    for node in cluster.nodes[1:]:
        wait_until(lambda node=node: knows(node), f"{node.folder.name} does not know")
    return time.monotonic() - began


def accepts_key(node, secret):
    try:
        node.call("GET", "/v1/emails?limit=1", secret=secret)
    except Refused:
        return False
    return True


def make_key(cluster):
    wanted = {
        "name": "short",
        "tenant_id": cluster.account.tenant_id,
        "environment": "live",
        "scopes": ["emails:read"],
    }
    key = cluster.nodes[0].call("POST", "/v1/keys", wanted)
    for node in cluster.nodes:
        wait_until(lambda node=node: accepts_key(node, key["secret"]), "a new key is refused")
    return key


def revoke_key(cluster):
    key = make_key(cluster)
    cluster.nodes[0].call("DELETE", f"/v1/keys/{key['id']}")
    return seconds_until_all(cluster, lambda node: not accepts_key(node, key["secret"]))


def suspend_tenant(cluster):
    key = make_key(cluster)
    tenant = f"/v1/tenants/{cluster.account.tenant_id}"
    cluster.nodes[0].call("PATCH", tenant, {"status": "suspended"})
    seconds = seconds_until_all(cluster, lambda node: not accepts_key(node, key["secret"]))
    cluster.nodes[0].call("PATCH", tenant, {"status": "active"})
    seconds_until_all(cluster, lambda node: accepts_key(node, key["secret"]))
    return seconds


def pause_destination(cluster):
    """Returns when another node began its last transaction with the destination."""
    destination = "d1.example"
    # What the other tests have submitted is no transaction with the destination.
    cluster.drain()
    began = time.monotonic()
    done = threading.Event()
    threads = [
        threading.Thread(target=send_to, args=(cluster, node, destination, done)) for node in cluster.nodes[1:]
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(
            lambda: all(last_transaction(node) > began for node in cluster.nodes[1:]), "nothing is delivered"
        )
        cluster.nodes[0].call("POST", "/v1/queue/pause", {"destination": destination})
        paused = time.monotonic()
        time.sleep(2 * CHANGE_SECONDS)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    last = max(last_transaction(node) for node in cluster.nodes[1:])
    cluster.nodes[0].call("POST", "/v1/queue/resume", {"destination": destination})
    return max(0, last - paused)


def last_transaction(node):
    return node.sink.transactions[-1] if node.sink.transactions else 0


def send_to(cluster, node, destination, done):
    with connect(node, cluster.account) as smtp:
        while not done.wait(RETRY_SECONDS / 4):
            names = new_recipients(1, destination)
            code, text = send(smtp, names)
            if code == 250:
                cluster.ledger.accept(message_id(text), names)
