"""Runs the real binary on free loopback ports for tests with third-party tools, and controls it over its HTTP API."""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PILLARBOX", str(REPOSITORY / "target/debug/pillarbox"))
HOSTNAME = "relay.test"
PATIENCE_SECONDS = 30


def free_ports(count):
    """Returns ports on which nothing listens now. The system gives them to no connection: those are above."""
    ports = []
    while len(ports) < count:
        port = secrets.choice(range(10_000, 32_768))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports += [port] if port not in ports else []
    return ports


class Refused(Exception):
    """The API answered with an error."""


class Server:
    """A data directory and its server process. Without a smart host, mail goes to the MX. `top`, `smtp` and `store` are
    further options of the file. `binary` may change between two starts."""

    def __init__(
        self, folder, smart_host_port=None, tls="opportunistic", extra="", smtp="", store="", top="", binary=BINARY
    ):
        self.folder = pathlib.Path(folder)
        self.binary = binary
        self.submission, self.submissions, self.api, self.metrics = free_ports(4)
        self.process = None
        certificates = self.folder / "certs"
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [REPOSITORY / "certs/make-dev-certs", "--into", certificates, HOSTNAME],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.ca_file = certificates / "ca.crt"
        smart_host = f"""
[relay.smart_host]
host = "127.0.0.1"
port = {smart_host_port}
tls = "{tls}"
"""
        self.config = self.folder / "pillarbox.toml"
        self.config.write_text(
            f"""
hostname = "{HOSTNAME}"
data_dir = "{self.folder / 'data'}"
{top}
[log]
level = "info"
[smtp]
submission = ["127.0.0.1:{self.submission}"]
submissions = ["127.0.0.1:{self.submissions}"]
{smtp}
[tls]
certificate = "{certificates / 'server.crt'}"
private_key = "{certificates / 'server.key'}"
[api]
listen = ["127.0.0.1:{self.api}"]
metrics_listen = ["127.0.0.1:{self.metrics}"]
[store]
free_disk_min = "1MiB"
{store}
[relay]
allowed_private_networks = ["127.0.0.0/8"]
{extra}
{smart_host if smart_host_port else ""}
"""
        )
        place = ["--config", self.config] if store else ["--data-dir", self.folder / "data"]
        made = subprocess.run(
            [binary, "key", "create", "--init", *place, "--name", "tests"],
            check=True,
            capture_output=True,
            text=True,
        )
        words = [word for word in made.stdout.split() if word.startswith("pb_")]
        self.platform_secret = words[0]

    def start(self, wait=True):
        """Starts the process; with `wait`, returns when it is ready."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready in time:\n{self.log_tail()}")
            time.sleep(0.02)

    def kill(self):
        """Kills the process with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Stops the process with SIGTERM; it must exit with status 0."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE_SECONDS + 20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server did not end when asked:\n{self.log_tail()}") from None
        if code != 0:
            raise RuntimeError(f"the server ended with {code}:\n{self.log_tail()}")

    def log_tail(self):
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-30:])

    def call(self, method, path, body=None, secret=None):
        """Sends a request to the API. Returns its JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {secret or self.platform_secret}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise Refused(f"{method} {path}: {error.code} {text}") from None

    def create_account(self, domain, slug="acme"):
        """Creates a tenant with a manually verified domain, and a key to submit with."""
        tenant = self.call("POST", "/v1/tenants", {"name": slug.title(), "slug": slug})
        wanted = {"name": domain, "tenant_id": tenant["id"], "verification": "manual"}
        domain = self.call("POST", "/v1/domains", wanted)
        assert domain["status"] == "verified", domain
        key = self.call(
            "POST",
            "/v1/keys",
            {
                "name": "tests",
                "tenant_id": tenant["id"],
                "environment": "live",
                "scopes": ["smtp:send", "emails:read"],
            },
        )
        return Account(tenant["id"], key["id"], key["secret"], domain)


class Account:
    def __init__(self, tenant_id, user, secret, domain):
        self.tenant_id = tenant_id
        self.user = user
        self.secret = secret
        self.domain = domain["name"]
        self.dkim_records = {
            record["name"].rstrip("."): record["value"]
            for record in domain["dns_records"]
            if record["purpose"] == "dkim"
        }
        assert self.dkim_records, domain
