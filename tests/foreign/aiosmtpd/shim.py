"""A pytest plugin that runs the test suite of aiosmtpd against Pillarbox: it replaces the server of the suite by a proxy
to a real Pillarbox. Reply codes are compared by their first digit, and texts are not compared. `divergences.py` lists the
tests that must fail, with reasons; all others must pass. See `run`."""

import base64
import contextlib
import pathlib
import re
import socket
import ssl
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "clients"))

import aiosmtpd.controller  # noqa: E402
from aiosmtpd.testing.statuscodes import StatusCode  # noqa: E402
from server import HOSTNAME, Server  # noqa: E402
from sink import Sink  # noqa: E402

from divergences import DIVERGENCES, WITHOUT_MEANING  # noqa: E402

PATIENCE_SECONDS = 10
# The domains that the suite sends from.
DOMAINS = ("example.com", "example.org")


class Door:
    """Accepts connections in clear and forwards each to Pillarbox over TLS. Logs in after the client's EHLO, because the
    servers of the suite need no login. Changes nothing else."""

    def __init__(self, server, account):
        self.server = server
        secret = base64.b64encode(f"\0{account.user}\0{account.secret}".encode()).decode()
        self.login = f"AUTH PLAIN {secret}\r\n".encode()
        self.context = ssl.create_default_context(cafile=str(server.ca_file))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(None)
        self.port = self.listener.getsockname()[1]
        self.clients = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.settimeout(None)
                self.clients.append(client)
                threading.Thread(target=self.lead, args=(client,), daemon=True).start()

    def lead(self, client):
        plain = socket.create_connection(("127.0.0.1", self.server.submissions))
        plain.settimeout(None)
        inside = self.context.wrap_socket(plain, server_hostname=HOSTNAME)
        with contextlib.suppress(OSError, ssl.SSLError), client, inside:
            if self.greet(client, inside):
                threading.Thread(target=pump, args=(client, inside), daemon=True).start()
                pump(inside, client)

    def hang_up(self):
        """Closes every connection, like a server that stops."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self.clients.clear()

    def greet(self, client, inside):
        """Forwards lines until EHLO was accepted, then logs in. Returns False at the end of the connection."""
        client_lines, replies = client.makefile("rb", buffering=0), inside.makefile("rb", buffering=0)
        client.sendall(read_reply(replies))
        while line := client_lines.readline():
            inside.sendall(line)
            if not line.endswith(b"\n"):
                return False
            reply = read_reply(replies)
            client.sendall(reply)
            if not reply or reply.startswith((b"221", b"421")):
                return False
            if line[:4].upper() in (b"EHLO", b"HELO") and reply.startswith(b"250"):
                inside.sendall(self.login)
                assert read_reply(replies).startswith(b"235")
                return True
        return False


def read_reply(replies):
    lines = b""
    while line := replies.readline():
        lines += line
        if line[3:4] != b"-":
            break
    return lines


def pump(source, target):
    with contextlib.suppress(OSError, ssl.SSLError, ValueError):
        while octets := source.recv(65536):
            target.sendall(octets)
        target.shutdown(socket.SHUT_WR)


class Box:
    """The messages that the sink got since a test began, in the form of the suite's handlers."""

    def __init__(self, sink):
        self.sink, self.start = sink, len(sink.messages)

    def __len__(self):
        self.wait(0)
        return len(self.sink.messages) - self.start

    def __getitem__(self, index):
        self.wait(index)
        message = self.sink.messages[self.start + index]
        return Envelope(message)

    def wait(self, index):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.sink.messages) - self.start <= index and time.monotonic() < deadline:
            time.sleep(0.01)


class Envelope:
    def __init__(self, message):
        self.mail_from, self.rcpt_tos = message.reverse_path, message.recipients
        self.content = self.original_content = message.content


class Stage:
    """The server and the sink that all tests share."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="pillarbox-aiosmtpd-")
        self.sink = Sink()
        self.server = Server(self.folder.name, self.sink.port)
        self.server.start()
        account = self.server.create_account(DOMAINS[0])
        for name in DOMAINS[1:]:
            wanted = {"name": name, "tenant_id": account.tenant_id, "verification": "manual"}
            assert self.server.call("POST", "/v1/domains", wanted)["status"] == "verified"
        self.door = Door(self.server, account)

    def stop(self):
        self.server.stop()
        self.sink.stop()
        self.folder.cleanup()


STAGE = None
OUTCOMES = {}


class Controller:
    """Replaces the controller of the suite; settings for its server have no effect."""

    def __init__(self, handler, hostname=None, port=None, **settings):
        self.handler = handler
        self.hostname, self.port = "127.0.0.1", STAGE.door.port
        if hasattr(handler, "box"):
            handler.box = Box(STAGE.sink)

    def start(self):
        pass

    def stop(self, no_assert=False):
        STAGE.door.hang_up()


def pytest_configure(config):
    global STAGE
    for marker in ("client_data", "controller_data", "handler_data"):
        config.addinivalue_line("markers", marker)
    socket.setdefaulttimeout(PATIENCE_SECONDS)
    StatusCode.__eq__ = lambda self, other: self.code // 100 == other[0] // 100
    StatusCode.__hash__ = lambda self: hash(self.code // 100)
    aiosmtpd.controller.Controller = Controller
    STAGE = Stage()


def pytest_unconfigure():
    STAGE.stop()


def name_of(nodeid):
    return nodeid.split("::", 1)[1]


def pytest_collection_modifyitems(config, items):
    """Skips tests that inspect a server in the test process."""
    for item in items:
        # The suite numbers its addresses; name them instead.
        if "address" in getattr(getattr(item, "callspec", None), "params", {}):
            address = item.callspec.params["address"]
            item._nodeid = f"{item.nodeid.split('[')[0]}[{address if len(address) < 99 else address[:1] + '…'}]"
    left_out = [item for item in items if is_without_meaning(name_of(item.nodeid))]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    for pattern, _ in WITHOUT_MEANING:
        assert any(re.fullmatch(pattern, name_of(item.nodeid)) for item in left_out), f"nothing is like {pattern}"


def is_without_meaning(name):
    return any(re.fullmatch(pattern, name) for pattern, _ in WITHOUT_MEANING)


def pytest_runtest_logreport(report):
    name = name_of(report.nodeid)
    OUTCOMES[name] = OUTCOMES.get(name, True) and report.outcome == "passed"


def pytest_sessionfinish(session):
    listed = [name for name in OUTCOMES if any(re.fullmatch(pattern, name) for pattern, _ in DIVERGENCES)]
    wrong = [f"{name} fails and is not listed" for name, held in OUTCOMES.items() if not held and name not in listed]
    wrong += [f"{name} is listed and holds" for name in listed if OUTCOMES[name]]
    wrong += [
        f"{pattern} is listed and is no test"
        for pattern, _ in DIVERGENCES
        if not any(re.fullmatch(pattern, name) for name in OUTCOMES)
    ]
    print()
    for line in wrong:
        print(f"WRONG   {line}")
    print(f"{len(OUTCOMES)} tests of aiosmtpd, {len(listed)} listed divergences, {len(wrong)} wrong")
    session.exitstatus = 1 if wrong or not OUTCOMES else 0
