"""Third-party programs parse our delivery reports: who failed, is delayed or was relayed, and why. See `run`."""

import email
import email.policy
import pathlib
import re
import smtplib
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time

from flufl.bounce import all_failures

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "clients"))

from server import HOSTNAME, PATIENCE_SECONDS, Server  # noqa: E402
from sink import Sink  # noqa: E402

DOMAIN = "acme.test"
SENDER = f"alice@{DOMAIN}"
# The replies of the receiving server by recipient; it accepts all others.
REFUSALS = {
    "gone@b.test": "550 5.1.1 The email account that you tried to reach does not exist",
    "left@b.test": "550 5.1.1 User unknown",
    "closed@b.test": "550 5.2.1 This mailbox is disabled",
    "rule@b.test": "554 5.7.1 Relay access denied",
    "full@b.test": "452 4.2.2 Mailbox full",
    "jürgen@b.test": "550 5.1.1 No such user here",
}
FIVE_HOURS_US = 5 * 3600 * 1_000_000


class Wrong(Exception):
    """A parser read a wrong result."""


def expect(found, wanted, what):
    if found != wanted:
        raise Wrong(f"{what}: found {found!r}, not {wanted!r}")


def submit(server, account, recipients, mail_options=(), rcpt_options=(), subject="report"):
    trust = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP("127.0.0.1", server.submission, timeout=PATIENCE_SECONDS) as client:
        client._host = HOSTNAME
        client.starttls(context=trust)
        client.login(account.user, account.secret)
        client.ehlo()
        message = f"From: {SENDER}\r\nTo: someone@b.test\r\nSubject: {subject}\r\n\r\nHello.\r\n"
        client.sendmail(SENDER, recipients, message.encode(), [*mail_options, "BODY=8BITMIME"], rcpt_options)


def wait_for(what, condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Wrong(f"no {what} in time")
        time.sleep(0.02)


def report(sink, number):
    """Waits for the report with this number. Returns its octets."""
    reports = wait_for(f"report {number}", lambda: [m for m in sink.messages if m.reverse_path == ""][number:])
    expect(reports[0].recipients, [SENDER], "whom the report went to")
    return reports[0].content


def groups(content):
    """Parses a report with Python's email package. Returns the type of the machine-readable part and its groups of fields."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    expect(message.get_content_type(), "multipart/report", "the report's type")
    expect(message.get_param("report-type"), "delivery-status", "what it reports")
    expect([part.defects for part in message.walk() if part.defects], [], "defects")
    _, status, original = message.iter_parts()
    if status.get_content_type() == "message/delivery-status":
        blocks = [dict(block.items()) for block in status.get_payload()]
    else:
        # Python's parser does not split the fields of this type.
        text = content.split(b"message/global-delivery-status", 1)[1].split(b"\r\n\r\n", 1)[1]
        text = text.split(b"\r\n--report-", 1)[0].decode()
        blocks = [dict(re.findall(r"^([A-Za-z-]+): (.*)$", block.replace("\r", ""), re.M)) for block in text.split("\r\n\r\n")]
    return status.get_content_type(), blocks, original.get_content_type()


def perl(content):
    """Parses a report with BounceParser, which expects LF. Returns the results by recipient."""
    content = content.replace(b"\r\n", b"\n")
    run = subprocess.run(["perl", HERE / "bounce_parser.pl"], input=content, capture_output=True, check=False)
    if run.returncode:
        raise Wrong(f"BounceParser: {run.stderr.decode(errors='replace')}")
    lines = [line.split("\t") for line in run.stdout.decode().splitlines()]
    return {address: (reason, status) for address, reason, status in lines}


def flufl(content):
    """Parses a report with flufl.bounce. Returns the delayed and the failed recipients."""
    late, failed = all_failures(email.message_from_bytes(content))
    return set(late), set(failed)


def fields_of(blocks, recipient):
    found = [block for block in blocks[1:] if block["Final-Recipient"].split(";")[1].strip() == recipient]
    expect(len(found), 1, f"groups about {recipient}")
    return found[0]


def check_failures(server, account, sink, number):
    submit(
        server,
        account,
        ["gone@b.test", "fine@b.test", "rule@b.test"],
        ["RET=HDRS", "ENVID=order+2042"],
        ["ORCPT=rfc822;list@c.test"],
    )
    content = report(sink, number)
    failed = {b"list@c.test"}
    expect(flufl(content), (set(), failed), "flufl.bounce, original recipients")
    kind, blocks, original = groups(content)
    expect((kind, original), ("message/delivery-status", "text/rfc822-headers"), "the parts' types")
    expect(blocks[0]["Original-Envelope-Id"], "order 42", "the envelope's id")
    expect(blocks[0]["Reporting-MTA"], f"dns; {HOSTNAME}", "who reports")
    for recipient, status in (("gone@b.test", "5.1.1"), ("rule@b.test", "5.7.1")):
        fields = fields_of(blocks, recipient)
        expect((fields["Action"], fields["Status"]), ("failed", status), recipient)
        expect(fields["Remote-MTA"], "dns; 127.0.0.1", recipient)
        expect(fields["Diagnostic-Code"], f"smtp; {REFUSALS[recipient]}", recipient)
        expect(fields["Original-Recipient"], "rfc822;list@c.test", recipient)
        email.utils.parsedate_to_datetime(fields["Last-Attempt-Date"])


def check_many(server, account, sink, number):
    submit(server, account, ["left@b.test", "closed@b.test"], ["RET=FULL"])
    content = report(sink, number)
    expect(flufl(content), (set(), {b"left@b.test", b"closed@b.test"}), "flufl.bounce")
    expect(perl(content), {"left@b.test": ("user_unknown", "5.1.1"), "closed@b.test": ("user_disabled", "5.2.1")}, "BounceParser")
    _, _, original = groups(content)
    expect(original, "message/rfc822", "the type of the whole message")


def check_delay(server, account, sink, number):
    submit(server, account, ["full@b.test"])
    wait_for("deferral", lambda: status_of_last(server) == "deferred")
    server.stop()
    database = sqlite3.connect(next((server.folder / "data").glob("*.db")))
    with database:
        database.execute("UPDATE message SET created_us = created_us - ?", [FIVE_HOURS_US])
        database.execute("UPDATE delivery SET updated_us = updated_us - ?", [FIVE_HOURS_US])
        database.execute("UPDATE delivery SET next_attempt_us = 0 WHERE next_attempt_us IS NOT NULL")
    database.close()
    server.start()
    content = report(sink, number)
    expect(flufl(content), ({b"full@b.test"}, set()), "flufl.bounce")
    _, blocks, _ = groups(content)
    fields = fields_of(blocks, "full@b.test")
    expect((fields["Action"], fields["Status"]), ("delayed", "4.2.2"), "the delay")
    until = email.utils.parsedate_to_datetime(fields["Will-Retry-Until"])
    last = email.utils.parsedate_to_datetime(fields["Last-Attempt-Date"])
    if not until > last:
        raise Wrong(f"Will-Retry-Until {until} is not after Last-Attempt-Date {last}")


def status_of_last(server):
    return server.call("GET", "/v1/emails?limit=1")["data"][0]["status"]


def check_success(server, account, sink, number):
    submit(server, account, ["fine@b.test"], rcpt_options=["NOTIFY=SUCCESS"])
    content = report(sink, number)
    expect(flufl(content), (set(), set()), "flufl.bounce, who takes success for no failure")
    _, blocks, _ = groups(content)
    fields = fields_of(blocks, "fine@b.test")
    expect((fields["Action"], fields["Status"]), ("relayed", "2.0.0"), "the success")


def check_beyond_ascii(server, account, sink, number):
    submit(server, account, ["jürgen@b.test"], ["SMTPUTF8"], subject="Grüße")
    content = report(sink, number)
    kind, blocks, original = groups(content)
    expect((kind, original), ("message/global-delivery-status", "message/global-headers"), "the parts' types")
    fields = fields_of(blocks, "jürgen@b.test")
    expect((fields["Action"], fields["Status"]), ("failed", "5.1.1"), "the recipient beyond ASCII")
    expect(fields["Final-Recipient"], "utf-8; jürgen@b.test", "its form")


CHECKS = (check_failures, check_many, check_success, check_delay, check_beyond_ascii)


def main():
    sink = Sink(REFUSALS.get)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, sink.port)
        server.start()
        account = server.create_account(DOMAIN)
        for number, check in enumerate(CHECKS):
            name = check.__name__.removeprefix("check_").replace("_", " ")
            try:
                check(server, account, sink, number)
                print(f"ok    {name}")
            except (Wrong, KeyError, ValueError, OSError, smtplib.SMTPException) as error:
                wrong += 1
                print(f"WRONG {name}: {type(error).__name__}: {error}")
        server.stop()
    sink.stop()
    print(f"{len(CHECKS) - wrong} of {len(CHECKS)} reports are read as they were meant")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
