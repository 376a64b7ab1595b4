"""scramp logs in with SCRAM over the TLS of OpenSSL, with and without channel binding. See `run`."""

import base64
import socket
import sys
import tempfile

import scramp.core
from OpenSSL import SSL
from scramp import ScramClient, ScramException

from server import HOSTNAME, PATIENCE_SECONDS, Server

DOMAIN = "acme.example"

# scramp knows the channel bindings of TLS 1.2 only, but accepts any octets as their value.
scramp.core.CHANNEL_TYPES = (*scramp.core.CHANNEL_TYPES, "tls-exporter")


class Session:
    """SMTP over implicit TLS, line by line."""

    def __init__(self, server, version):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.load_verify_locations(str(server.ca_file))
        context.set_verify(SSL.VERIFY_PEER, lambda _connection, _certificate, _error, _depth, ok: bool(ok))
        plain = socket.create_connection(("127.0.0.1", server.submissions), timeout=PATIENCE_SECONDS)
        plain.settimeout(None)
        self.tls = SSL.Connection(context, plain)
        self.tls.set_tlsext_host_name(HOSTNAME.encode())
        self.tls.set_connect_state()
        self.tls.do_handshake()
        self.buffer = b""
        self.read()
        self.offer = self.command("EHLO client.example")

    def read(self):
        """Reads all lines of a reply."""
        lines = []
        while not lines or lines[-1][3:4] == "-":
            while b"\r\n" not in self.buffer:
                self.buffer += self.tls.recv(4096)
            line, self.buffer = self.buffer.split(b"\r\n", 1)
            lines.append(line.decode())
        return lines

    def command(self, line):
        self.tls.sendall(line.encode() + b"\r\n")
        return self.read()

    def log_in(self, mechanism, user, password, channel=None):
        """Returns the last reply. Raises an error if the server's proof is wrong."""
        client = ScramClient([mechanism], user, password, channel_binding=channel)
        reply = self.command(f"AUTH {mechanism} {encode(client.get_client_first())}")[0]
        if not reply.startswith("334 "):
            return reply
        client.set_server_first(decode(reply))
        reply = self.command(encode(client.get_client_final()))[0]
        if not reply.startswith("334 "):
            return reply
        client.set_server_final(decode(reply))
        return self.command("")[0]


def encode(text):
    return base64.b64encode(text.encode()).decode()


def decode(reply):
    return base64.b64decode(reply[4:]).decode()


def expect(what, reply, code):
    print(f"{'ok     ' if reply.startswith(code) else 'FAILED '} {what}: {reply}")
    return not reply.startswith(code)


def check(server, account):
    user, secret, failures = account.user, account.secret, 0
    new, old = SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION
    for name, version in (("TLS 1.3", new), ("TLS 1.2", old)):
        session = Session(server, version)
        failures += expect(f"{name}, wrong", session.log_in("SCRAM-SHA-256", user, secret + "x"), "535")
        failures += expect(f"{name}, right", session.log_in("SCRAM-SHA-256", user, secret), "235")
        offered = any("SCRAM-SHA-256-PLUS" in line for line in session.offer)
        failures += expect(f"{name}, PLUS is offered", str(offered), str(version == new))
    session = Session(server, new)
    exported = session.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
    wrong = session.log_in("SCRAM-SHA-256-PLUS", user, secret, ("tls-exporter", bytes(32)))
    failures += expect("PLUS, another channel", wrong, "535")
    right = session.log_in("SCRAM-SHA-256-PLUS", user, secret, ("tls-exporter", exported))
    failures += expect("PLUS, this channel", right, "235")
    return failures


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-scram-") as folder:
        server = Server(folder, 9, smtp="scram_plus = true")
        server.start()
        try:
            return 1 if check(server, server.create_account(DOMAIN)) else 0
        except (ScramException, SSL.Error):
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
