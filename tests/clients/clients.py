"""Third-party clients submit messages; the sink must receive their exact bytes, with a DKIM signature. See `run`."""

import re
import sys
import tempfile
import time

import corpus
import senders
from check import Wrong, check
from server import PATIENCE_SECONDS, Server
from sink import Sink

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"


def main(modules):
    with tempfile.TemporaryDirectory(prefix="pillarbox-clients-") as folder:
        sink = Sink()
        server = Server(folder, sink.port)
        server.start()
        try:
            account = server.create_account(DOMAIN)
            sent, failures = submit(server, account, modules)
            failures += verify(sink, sent, account)
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()
            sink.stop()
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{len(sent)} messages of {len(senders.SENDERS) + 2} clients, {len(failures)} failures")
    return 1 if failures else 0


def submit(server, account, modules):
    """Sends every kind of message with every client. Returns the bytes by Message-ID, and the failures."""
    sent, failures = {}, []
    for client, send in senders.SENDERS.items():
        for kind in corpus.KINDS:
            data, message_id = corpus.message(client, kind, SENDER, senders.RECIPIENT)
            try:
                send(server, account, SENDER, data)
                sent[message_id] = data
            except Exception as error:
                failures.append(f"{client}, {kind}: {error}")
    for client, secure in (("nodemailer-starttls", False), ("nodemailer-implicit", True)):
        try:
            sent |= senders.nodemailer(server, account, modules, SENDER, client, secure)
        except Exception as error:
            failures.append(f"{client}: {error}")
    return sent, failures


def verify(sink, sent, account):
    failures = []
    received = wait_for(sink, sent)
    for message_id, data in sent.items():
        copies = received.get(message_id, [])
        if len(copies) != 1:
            failures.append(f"{message_id}: received {len(copies)} times")
            continue
        try:
            check(copies[0].content, data, account.dkim_records)
            if (copies[0].reverse_path, copies[0].recipients) != (SENDER, [senders.RECIPIENT]):
                raise Wrong(f"envelope {copies[0].reverse_path} {copies[0].recipients}")
            print(f"ok      {message_id}")
        except Wrong as error:
            failures.append(f"{message_id}: {error}")
    return failures


def wait_for(sink, sent):
    """Waits for as many messages as were sent. Returns the received messages by Message-ID."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(sink.messages) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.05)
    received = {}
    for message in sink.messages:
        found = re.search(rb"^message-id:\s*<([^>]*)>", message.content, re.IGNORECASE | re.MULTILINE)
        received.setdefault(found.group(1).decode() if found else None, []).append(message)
    return received


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
