"""The real binary gets certificates from Pebble: the first one, renewals, with refused nonces and an external account, and
while the authority is away. See `run`."""

import contextlib
import json
import os
import pathlib
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients"))
from server import HOSTNAME, PATIENCE_SECONDS, REPOSITORY, Refused, Server, free_ports  # noqa: E402

FIRST_SECONDS = 30
RENEWALS = 4
NONCES_REFUSED_PERCENT = 50
KEY_ID = "kid-1"
KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
UNVERIFIED = ssl._create_unverified_context()


class Authority:
    """Pebble with its own DNS, which says that every name is this machine. A context: it runs inside. Its log is shown if
    something fails there."""

    def __init__(self, folder, needs_binding=False):
        folder.mkdir()
        self.port, self.management, self.http, dns, commands = free_ports(5)
        certificates = folder / "certs"
        subprocess.run(
            [REPOSITORY / "certs/make-dev-certs", "--into", certificates, "localhost"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.ca_file = certificates / "ca.crt"
        self.name_server = f"127.0.0.1:{dns}"
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(certificates / "server.crt"),
            "privateKey": str(certificates / "server.key"),
            "httpPort": self.http,
            "tlsPort": free_ports(1)[0],
            "ocspResponderURL": "",
            "externalAccountBindingRequired": needs_binding,
            "externalAccountMACKeys": {KEY_ID: KEY},
        }
        file = folder / "pebble.json"
        file.write_text(json.dumps({"pebble": config}))
        dns_only = [f"-{kind}=" for kind in ("http01", "https01", "tlsalpn01")]
        self.commands = [
            ["pebble-challtestsrv", "-dns01", self.name_server, "-defaultIPv6", "",
             "-management", f"127.0.0.1:{commands}", *dns_only],
            ["pebble", "-config", str(file), "-dnsserver", self.name_server],
        ]  # fmt: skip
        self.log = folder / "log"
        self.processes = []

    def __enter__(self):
        environment = {
            **os.environ,
            "PEBBLE_WFE_NONCEREJECT": str(NONCES_REFUSED_PERCENT),
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_AUTHZREUSE": "0",
        }
        try:
            with open(self.log, "wb") as log:
                for command in self.commands:
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                    self.processes.append(process)
            wait_until("Pebble listens", lambda: all(is_open(port) for port in (self.port, self.management)))
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind, *_):
        self.stop()
        if kind is not None:
            print(self.log.read_text(errors="replace"), file=sys.stderr)

    def root(self):
        """The certificate that its certificates lead to. It is new at each start."""
        with urllib.request.urlopen(f"https://127.0.0.1:{self.management}/roots/0", context=UNVERIFIED) as answer:
            return answer.read().decode()

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class AcmeServer(Server):
    """A server that gets its certificate itself, with an API over TLS."""

    def __init__(self, folder, authority, more=""):
        acme = f"""
[acme]
enabled = true
contact = "postmaster@{HOSTNAME}"
directory = "https://127.0.0.1:{authority.port}/dir"
http_listen = ["127.0.0.1:{authority.http}"]
ca_file = "{authority.ca_file}"
{more}
"""
        super().__init__(folder, extra=f'name_servers = ["{authority.name_server}"]\n{acme}')
        lines = self.config.read_text().splitlines()
        files = ("[tls]", "certificate = ", "private_key = ")
        text = "\n".join(line for line in lines if not line.startswith(files))
        self.config.write_text(text.replace("[api]\n", "[api]\ntls = true\n", 1))

    def wait_until_ready(self):
        wait_until("the server is ready", lambda: is_open(self.api))

    def call(self, method, path, body=None, secret=None):
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.api}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {secret or self.platform_secret}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS, context=UNVERIFIED) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}: {error.code} {error.read()}") from None

    def certificate(self):
        return self.call("GET", "/v1/certificate")

    def renew(self):
        self.call("POST", "/v1/certificate/renew")
        return wait_until("the order ends", lambda: (view := self.certificate()) and not view["acme"]["running"] and view)

    def finding(self, check):
        findings = self.call("GET", "/v1/doctor?refresh=true")["findings"]
        return next(finding for finding in findings if finding["id"] == check)


@contextlib.contextmanager
def running(server):
    try:
        yield server
    finally:
        server.stop()


def wait_until(what, condition, seconds=PATIENCE_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"timeout after {seconds} s: waited until {what}")
        time.sleep(0.05)
    return found


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def handshake(server, port, root, starttls=False):
    """The serial number of the certificate of a listener, which must be for the host name and lead to the root."""
    context = ssl.create_default_context(cadata=root)
    if starttls:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_SECONDS) as client:
            client._host = HOSTNAME
            client.starttls(context=context)
            return client.sock.getpeercert()["serialNumber"]
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname=HOSTNAME) as client:
            return client.getpeercert()["serialNumber"]


def serials(server, root):
    """The serial number that every listener shows."""
    seen = {
        handshake(server, server.submissions, root),
        handshake(server, server.submission, root, starttls=True),
        handshake(server, server.api, root),
    }
    assert len(seen) == 1, seen
    return seen.pop()


def first_certificate(server, authority):
    """Starts the server and waits for its certificate. Returns the seconds, and a session from before."""
    start = time.monotonic()
    server.start()
    session = smtplib.SMTP("127.0.0.1", server.submission, timeout=PATIENCE_SECONDS)
    session.starttls(context=UNVERIFIED)
    assert server.certificate()["source"] == "self_signed"
    wait_until("there is a certificate", lambda: server.certificate()["source"] == "acme", FIRST_SECONDS)
    seconds = time.monotonic() - start
    assert seconds <= FIRST_SECONDS, seconds
    return seconds, session


def check_renewals(folder):
    with Authority(folder / "pebble") as authority, running(AcmeServer(folder / "server", authority)) as server:
        seconds, session = first_certificate(server, authority)
        root = authority.root()
        seen = [serials(server, root)]
        print(f"ok      the first certificate came after {seconds:.1f} s; 465, 587 and the API show it")
        for _ in range(RENEWALS):
            view = server.renew()
            assert view["acme"]["error"] is None, view
            assert view["acme"]["challenge"] == "http-01", view
            seen.append(serials(server, root))
        assert len(set(seen)) == 1 + RENEWALS, seen
        assert session.noop()[0] == 250
        print(f"ok      {RENEWALS} renewals, {NONCES_REFUSED_PERCENT} % of the nonces refused; a session from before goes on")
        authority.stop()
        view = server.renew()
        assert "cannot reach" in view["acme"]["error"] and view["source"] == "acme", view
        assert serials(server, root) == seen[-1]
        finding = server.finding("acme.order")
        assert finding["status"] == "warning" and "cannot reach" in finding["text"], finding
        print(f"ok      the authority is away: {finding['text']}")
        server.stop()
        server.start()
        assert serials(server, root) == seen[-1]
        print("ok      a restart uses the certificate in its file")


def check_external_account(folder):
    key = folder / "eab.key"
    key.write_text(f"{KEY}\n")
    binding = f'eab_key_id = "{KEY_ID}"\neab_key_file = "{key}"'
    with (
        Authority(folder / "pebble", needs_binding=True) as authority,
        running(AcmeServer(folder / "server", authority, binding)) as server,
    ):
        first_certificate(server, authority)
        serials(server, authority.root())
        print("ok      an account that is bound to one outside of ACME")


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-acme-") as folder:
        for name, check in (("renewals", check_renewals), ("binding", check_external_account)):
            (pathlib.Path(folder) / name).mkdir()
            check(pathlib.Path(folder) / name)


main()
