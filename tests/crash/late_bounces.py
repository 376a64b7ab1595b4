"""Kills the server with SIGKILL at random moments while reports arrive: what a report says has happened if it got 250, and
happens once if its sender repeats it. The addresses are made here, from the master key alone. See `run`."""

import hashlib
import hmac
import random
import smtplib
import ssl
import sys
import tempfile
import threading
import time

from server import PATIENCE_SECONDS, Server, free_ports
from sink import Sink

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
RETURN_HOST = "bounce.relay.test"
DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
CLIENTS = 6
DRAIN_SECONDS = 120
DELIVERIES_PER_ROUND = 24


class TokenKey:
    """The key of the first generation: HKDF-SHA-256 of the master key."""

    def __init__(self, master_key):
        extracted = hmac.digest(b"pillarbox", master_key, "sha256")
        info = b"report token " + (1).to_bytes(4, "little")
        self.key = hmac.digest(extracted, info + b"\x01", "sha256")

    def address(self, delivery_id):
        text = "d1" + delivery_id.split("_")[1].lower()
        mac = hmac.digest(self.key, f"pillarbox.report.1|bounce|{text}".encode(), "sha256")
        number = int.from_bytes(mac[:13], "big") >> 4
        digits = "".join(DIGITS[(number >> (5 * place)) & 31] for place in reversed(range(20)))
        return f"bounce+{text}{digits}@{RETURN_HOST}"


class Ledger:
    """Deliveries whose failure is to be reported, and those whose report got 250."""

    def __init__(self):
        self.lock = threading.Lock()
        self.waiting = []
        self.acknowledged = set()
        self.repeated = 0

    def add(self, deliveries):
        with self.lock:
            self.waiting += deliveries

    def take(self):
        with self.lock:
            return self.waiting.pop() if self.waiting else None

    def acknowledge(self, delivery):
        with self.lock:
            self.acknowledged.add(delivery)

    def give_back(self, delivery):
        with self.lock:
            self.repeated += 1
            self.waiting.append(delivery)


def main(rounds, seed):
    chance = random.Random(seed)
    sink = Sink(lambda _: None, lambda _: None)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="pillarbox-late-bounces-") as folder:
        inbound = f'[inbound]\nlisten = ["127.0.0.1:{port}"]\n'
        server = Server(folder, sink.port, extra=inbound)
        server.start()
        try:
            account = server.create_account(DOMAIN)
            deliveries = deliver(server, account, DELIVERIES_PER_ROUND * rounds)
            key = TokenKey(bytes.fromhex((server.folder / "data/master.key").read_text().strip()))
            ledger, all_ = Ledger(), list(deliveries)
            for number in range(rounds):
                ledger.add(all_[number::rounds])
                report_until_killed(server, port, key, ledger, deliveries, chance)
                server.start()
                lost = [one for one in ledger.acknowledged if state_of(server, deliveries[one][0]) != "bounced"]
                print(f"round {number + 1}: {len(ledger.acknowledged)} acknowledged, {len(lost)} LOST")
                if lost:
                    return 1
            # Each report once more, whether or not it got its 250.
            ledger.add([delivery for delivery in all_ if delivery not in ledger.waiting])
            report_rest(port, key, ledger, deliveries)
            check(server, account, deliveries)
            server.stop()
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            if server.process.poll() is None:
                server.kill()
            sink.stop()
    print(f"seed {seed}: {len(deliveries)} late bounces, {ledger.repeated} reports interrupted, all repeated, each applied once")
    return 0


def deliver(server, account, count):
    """Delivers messages. Returns message and recipient by delivery id."""
    context = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP("localhost", server.submission, timeout=PATIENCE_SECONDS) as smtp:
        smtp.starttls(context=context)
        smtp.login(account.user, account.secret)
        for number in range(count):
            to = f"u{number}@d.example"
            smtp.sendmail(SENDER, [to], f"From: {SENDER}\r\nTo: {to}\r\nSubject: late\r\n\r\nbody\r\n")
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        emails = pages(server, "/v1/emails?status=delivered")
        if len(emails) == count:
            break
        assert time.monotonic() < deadline, f"{len(emails)} of {count} are delivered"
        time.sleep(0.1)
    found = {}
    for email in emails:
        (delivery,) = server.call("GET", f"/v1/emails/{email['id']}")["deliveries"]
        found[delivery["id"]] = (email["id"], delivery["recipient"])
    return found


def pages(server, path):
    objects, cursor = [], None
    while True:
        separator = "&" if "?" in path else "?"
        after = "" if cursor is None else f"&after={cursor}"
        page = server.call("GET", f"{path}{separator}limit=100{after}")
        objects += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return objects


def report_until_killed(server, port, key, ledger, deliveries, chance):
    wanted = len(ledger.acknowledged) + chance.randint(1, len(ledger.waiting))
    threads = [
        threading.Thread(target=client, args=(port, key, ledger, deliveries)) for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(ledger.acknowledged) < wanted:
        assert time.monotonic() < deadline, f"{len(ledger.acknowledged)} of {wanted} reports are accepted"
        time.sleep(0.001)
    server.kill()
    for thread in threads:
        thread.join()


def client(port, key, ledger, deliveries):
    """Sends reports until the connection breaks. A report without its 250 is repeated after the restart."""
    delivery = None
    try:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="mx.d.example", timeout=10) as smtp:
            while delivery := ledger.take():
                _, recipient = deliveries[delivery]
                smtp.sendmail("", [key.address(delivery)], dsn(recipient))
                ledger.acknowledge(delivery)
                delivery = None
    except (ConnectionError, smtplib.SMTPServerDisconnected):
        pass
    finally:
        if delivery is not None:
            ledger.give_back(delivery)


def report_rest(port, key, ledger, deliveries):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ledger.waiting:
        assert time.monotonic() < deadline, f"{len(ledger.waiting)} reports are not accepted"
        client(port, key, ledger, deliveries)


def dsn(recipient):
    return (
        "From: MAILER-DAEMON@d.example\r\nSubject: failed\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.d.example\r\n\r\n"
        f"Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b--\r\n"
    )


def state_of(server, message_id):
    (delivery,) = server.call("GET", f"/v1/emails/{message_id}")["deliveries"]
    return delivery["status"]


def check(server, account, deliveries):
    """Each failure has one event, one suppression and counts once, however often it was reported."""
    for message_id, recipient in deliveries.values():
        events = server.call("GET", f"/v1/events?message_id={message_id}&type=message.bounced")["data"]
        assert [event["data"]["late"] for event in events] == [True], (recipient, events)
        suppressions = server.call("GET", f"/v1/suppressions?address={recipient}")["data"]
        assert [one["report_id"] for one in suppressions] == [events[0]["data"]["report_id"]], recipient
        assert len(server.call("GET", f"/v1/reports?message_id={message_id}")["data"]) == 1, recipient
    usage = server.call("GET", f"/v1/tenants/{account.tenant_id}/usage")
    assert usage["emails_bounced_late"] == len(deliveries), usage


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(arguments + [10, random.randrange(1 << 32)][len(arguments) :])))
