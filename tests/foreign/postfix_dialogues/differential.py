"""Runs the same dialogues with Pillarbox and with a real Postfix. Classes of replies, ends of connections and accepted
messages must be the same, except for the differences in `differences.py`. See `run`."""

import base64
import collections
import concurrent.futures
import pathlib
import re
import socket
import ssl
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "clients"))

import postfix as mx  # noqa: E402
from server import HOSTNAME, PATIENCE_SECONDS, Server  # noqa: E402
from sink import Sink  # noqa: E402

from differences import DIFFERENCES  # noqa: E402
from generate import dialogues  # noqa: E402

DOMAIN = "acme.example"
SIZE_MAX = 102400
COUNT = 500
SEED = 5321

# A submission server that trusts its clients, as Pillarbox does after login.
SUBMISSION_CF = f"""
mynetworks = 127.0.0.0/8
virtual_mailbox_domains =
default_transport = discard
strict_rfc821_envelopes = no
strict_7bit_headers = no
strict_8bitmime_body = no
strict_mime_encoding_domain = no
smtpd_tls_security_level = none
smtpd_forbid_unauth_pipelining = no
smtpd_helo_restrictions =
smtpd_sender_restrictions =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_data_restrictions =
smtpd_hard_error_limit = 100
message_size_limit = {SIZE_MAX}
"""


class Closed(Exception):
    """The server has closed the connection."""


class Connection:
    """A client that sends given lines and reads classes of replies."""

    def __init__(self, stream):
        stream.settimeout(PATIENCE_SECONDS)
        self.stream = stream
        self.reader = stream.makefile("rb")

    def send(self, octets):
        try:
            self.stream.sendall(octets)
        except OSError as error:
            raise Closed from error

    def reply(self):
        """Returns the text of the next reply."""
        lines = []
        while True:
            try:
                line = self.reader.readline()
            except (ConnectionError, ssl.SSLError) as error:
                raise Closed from error
            if not line.endswith(b"\n"):
                raise Closed
            lines.append(line.decode("ascii").rstrip())
            if lines[-1][3:4] != "-":
                return " / ".join(lines)

    def command(self, line):
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def close(self):
        self.reader.close()
        self.stream.close()


def play(connection, groups):
    """Runs a dialogue. Returns pairs of command and reply; the reply is `closed` if the connection ended."""
    said = []
    try:
        for group in groups:
            asked = [str(command) for command in group]
            connection.send(b"".join(command.line.encode() + b"\r\n" for command in group))
            for command in group:
                reply = connection.reply()
                said.append((asked.pop(0), reply))
                if command.content and reply.startswith("354"):
                    asked.insert(0, f"content {shorten(command.content)}")
                    connection.send(command.content)
                    said.append((asked.pop(0), connection.reply()))
                if reply.startswith(("221", "421")):
                    # No other reply may follow.
                    asked.insert(0, "the end")
                    connection.reply()
                    said.append(("the end", "did not come"))
    except Closed:
        said.append((asked[0] if asked else "the next group", "closed"))
    return said


def shorten(content):
    return repr(content if len(content) < 90 else content[:60] + b"..." + content[-24:])[1:]


class Ours:
    def __init__(self, folder, sink):
        self.server = Server(folder, sink.port)
        text = self.server.config.read_text().replace(
            "[smtp]", f'[smtp]\nmessage_size_max = "{SIZE_MAX}B"\nerrors_max = 100'
        )
        self.server.config.write_text(text)
        self.server.start()
        self.account = self.server.create_account(DOMAIN)
        self.context = ssl.create_default_context(cafile=str(self.server.ca_file))

    def connect(self, logs_in):
        if not logs_in:
            connection = Connection(socket.create_connection(("127.0.0.1", self.server.submission)))
            expect(connection.reply(), "220")
            return connection
        plain = socket.create_connection(("127.0.0.1", self.server.submissions))
        connection = Connection(self.context.wrap_socket(plain, server_hostname=HOSTNAME))
        expect(connection.reply(), "220")
        expect(connection.command("EHLO client.example"), "250")
        secret = base64.b64encode(f"\0{self.account.user}\0{self.account.secret}".encode()).decode()
        expect(connection.command(f"AUTH PLAIN {secret}"), "235")
        return connection

    def stop(self):
        self.server.stop()


class Theirs:
    def __init__(self, folder):
        self.postfix = mx.Postfix(folder)
        settings = dict(re.findall(r"^(\w+) = ?(.*)$", SUBMISSION_CF, re.M))
        main_cf = self.postfix.etc / "main.cf"
        lines = [line for line in main_cf.read_text().splitlines() if line.split(" ")[0] not in settings]
        main_cf.write_text("\n".join(lines) + SUBMISSION_CF)
        self.postfix.start()

    def connect(self, logs_in):
        connection = Connection(socket.create_connection(("127.0.0.1", self.postfix.port)))
        expect(connection.reply(), "220")
        if logs_in:
            expect(connection.command("EHLO client.example"), "250")
        return connection

    def stop(self):
        self.postfix.stop()


def expect(reply, code):
    if not reply.startswith(code):
        raise RuntimeError(f"expected {code}, got {reply}")


def hold(peer, logs_in, groups):
    connection = peer.connect(logs_in)
    try:
        return play(connection, groups)
    finally:
        connection.close()


def compare(ours, theirs, seen):
    """Returns the first unexpected difference, as lines to print. After a difference in what was accepted, the two
    servers are in different states and are no longer compared."""
    transcript = []
    for (command, our_reply), (their_command, their_reply) in zip(ours, theirs):
        transcript.append(f"  C: {command}\n     pillarbox {our_reply[:150]}\n     postfix   {their_reply[:150]}")
        if command != their_command:
            return transcript
        pair = (classify(our_reply), classify(their_reply))
        if pair[0] == pair[1]:
            continue
        if not is_listed(command, pair, seen):
            return transcript
        if not set(pair) <= {"4", "5"}:
            return None
    return transcript if len(ours) != len(theirs) else None


def classify(reply):
    return reply if reply in ("closed", "did not come") else reply[0]


def is_listed(command, pair, seen):
    for index, (pattern, our_class, their_class, _reason) in enumerate(DIFFERENCES):
        if (our_class, their_class) == pair and re.fullmatch(pattern, command, re.S | re.I):
            seen[index] += 1
            return True
    return False


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-differential-") as folder:
        sink = Sink()
        theirs = Theirs(pathlib.Path(folder) / "postfix")
        ours = None
        try:
            ours = Ours(pathlib.Path(folder) / "pillarbox", sink)
            failures, seen = hold_all(ours, theirs)
        finally:
            theirs.stop()
            if ours:
                ours.stop()
            sink.stop()
    for index, (pattern, *_rest) in enumerate(DIFFERENCES):
        if not seen[index]:
            failures.append(f"no dialogue shows the listed difference {pattern}")
    print("\n".join(failures[:40]))
    print(f"{COUNT} dialogues, {sum(seen.values())} listed differences of {len(seen)} kinds, {len(failures)} failures")
    return 1 if failures else 0


def hold_all(ours, theirs):
    failures, seen = [], collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pairs = [
            (number, pool.submit(hold, ours, *dialogue), pool.submit(hold, theirs, *dialogue))
            for number, dialogue in enumerate(dialogues(COUNT, SEED))
        ]
        for number, our_side, their_side in pairs:
            transcript = compare(our_side.result(), their_side.result(), seen)
            if transcript:
                failures.append(f"dialogue {number}:\n" + "\n".join(transcript[-4:]))
    return failures, seen


if __name__ == "__main__":
    sys.exit(main())
