"""A newcomer runs the commands of README.md: installs the server, makes a tenant, a domain and a key, and sends a message,
which is delivered. The commands are read from the file. See `run`."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "clients"))
from name_server import NameServer  # noqa: E402
from server import BINARY, PATIENCE_SECONDS, REPOSITORY, free_ports  # noqa: E402
from sink import Sink  # noqa: E402

HOST = "mail.example.com"
# The exit status of the doctor if something does not work.
DOCTOR_ERROR = 2
# Stand-ins for programs of the newcomer's machine. `systemctl` notes that the service was enabled.
PROGRAMS = {
    "sudo": 'exec "$@"',
    "cargo": '[ "$*" = "build --release" ] && install -D "$PILLARBOX" target/release/pillarbox',
    "systemctl": '[ "$*" = "enable --now pillarbox" ] && touch "$ROOT/enabled"',
}


class Readme:
    """The commands of README.md, with the few places changed that are others on this machine."""

    def __init__(self):
        self.text = (REPOSITORY / "README.md").read_text()
        self.places = {}

    def replace(self, what, by):
        """From now on, `what` is replaced. Every replacement must occur."""
        self.places[what] = [by, 0]

    def adapt(self, command):
        for what, place in self.places.items():
            place[1] += command.count(what)
            command = command.replace(what, place[0])
        return command

    def section(self, heading):
        found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", self.text, re.M | re.S)
        assert found, f"README.md has no section {heading}"
        return found.group(1)

    def blocks(self, heading, language):
        found = re.findall(rf"^```{language}\n(.*?)^```$", self.section(heading), re.M | re.S)
        assert found, f"the section {heading} has no block of {language}"
        return found

    def steps(self, heading):
        """The numbered steps of a section."""
        found = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", self.section(heading), re.M | re.S)
        assert [int(number) for number, _ in found] == list(range(1, len(found) + 1)), found
        return [" ".join(text.split()) for _, text in found]

    def unused(self):
        return [what for what, (_, times) in self.places.items() if not times]


class Newcomer:
    def __init__(self, folder, names, sink):
        self.root = pathlib.Path(folder)
        self.names, self.sink = names, sink
        self.submission, self.submissions, self.api, self.challenge = free_ports(4)
        self.clone = self.root / "clone"
        self.server = None
        self.readme = Readme()
        self.environment = {
            **os.environ,
            "PATH": f"{self.root}/programs:{self.root}/bin:{os.environ['PATH']}",
            "PILLARBOX": BINARY,
            "PILLARBOX_URL": f"http://127.0.0.1:{self.api}",
            "ROOT": str(self.root),
        }
        for what, by in {
            "/usr/local/bin/": f"{self.root}/bin/",
            "/etc/": f"{self.root}/etc/",
            "/run/credentials/pillarbox.service/": f"{self.root}/credentials/",
            "key create --local": f"key create --local --config {self.root}/etc/pillarbox/pillarbox.toml",
            f'"{HOST}", 465': f'"127.0.0.1", {self.submissions}',
            "http://127.0.0.1:8587": self.environment["PILLARBOX_URL"],
        }.items():
            self.readme.replace(what, by)

    def prepare(self):
        """The machine before the first command: a clone of the repository, and the programs."""
        for name in ("programs", "bin", "etc/systemd/system", "credentials"):
            (self.root / name).mkdir(parents=True)
        shutil.copytree(REPOSITORY / "systemd", self.clone / "systemd")
        for name, text in PROGRAMS.items():
            refusal = f"echo 'README.md must not run this:' {name} \"$@\" >&2; exit 1"
            (self.root / "programs" / name).write_text(f"#!/bin/bash\n{text}\n[ $? = 0 ] || {{ {refusal}; }}\n")
            (self.root / "programs" / name).chmod(0o755)

    def run(self, command, may_fail=False):
        """Runs a command of README.md. Returns what it printed, first to stdout, then to stderr; None if it may fail and did."""
        command = self.readme.adapt(command)
        done = subprocess.run(
            ["bash", "-euc", command], cwd=self.clone, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PATIENCE_SECONDS * 2,
        )  # fmt: skip
        if done.returncode != 0:
            if may_fail:
                return None
            raise AssertionError(f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def install(self):
        # Packages are another way, and another test.
        [from_source] = [block for block in self.readme.blocks("Install", "sh") if "cargo build" in block]
        self.run(from_source)
        assert (self.root / "enabled").exists(), "README.md does not start the service"
        # What the newcomer's machine has by itself: free ports, a data directory, name servers, MX hosts on port 25. There is no
        # authority for certificates here.
        with open(self.root / "etc/pillarbox/pillarbox.toml", "a") as config:
            config.write(
                f"""
data_dir = "{self.root}/data"
smtp.submission = ["127.0.0.1:{self.submission}"]
smtp.submissions = ["127.0.0.1:{self.submissions}"]
api.listen = ["127.0.0.1:{self.api}"]
acme.directory = "https://127.0.0.1:9/directory"
acme.http_listen = ["127.0.0.1:{self.challenge}"]
relay.name_servers = ["127.0.0.1:{self.names.port}"]
relay.port = {self.sink.port}
relay.allowed_private_networks = ["127.0.0.0/8"]
store.free_disk_min = "1MiB"
"""
            )
        self.start_service()
        print("ok      installed, and the service runs", flush=True)

    def start_service(self):
        """Does with the unit what systemd does."""
        unit = (self.root / "etc/systemd/system/pillarbox.service").read_text()
        for name, file in re.findall(r"^LoadCredential=([^:]+):(.*)$", unit, re.M):
            shutil.copy(self.readme.adapt(file), self.root / "credentials" / name)
        [command] = re.findall(r"^ExecStart=(.*)$", unit, re.M)
        with open(self.root / "log", "wb") as log:
            self.server = subprocess.Popen(
                self.readme.adapt(command).split(), env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.until("the service is ready", lambda: self.run("curl -sf $PILLARBOX_URL/readyz", may_fail=True))

    def publish_server(self, step):
        """Publishes the records that the step about the server names."""
        [(value, name)] = re.findall(r"TXT record `([^`]+)` at `([^`]+)`", step)
        assert f"give `{HOST}` an address" in step and f"the PTR `{HOST}`" in step, step
        records = [f"{HOST}. 1 IN A 127.0.0.1", f'{name}. 1 IN TXT "{value}"']
        self.names.publish("example.com", records)
        self.names.publish("127.in-addr.arpa", [f"1.0.0 1 IN PTR {HOST}."])

    def publish_domain(self, printed):
        """Publishes the records that `domain add` printed, as an administrator would."""
        _, table = re.split(r"^PURPOSE +STATUS +TYPE +NAME +VALUE$", printed, flags=re.M)
        rows = [re.split(r" {2,}", row, maxsplit=4) for row in table.strip().splitlines()]
        assert len(rows) > 3, printed
        lines = []
        for _, _, kind, name, value in rows:
            strings = " ".join(f'"{value[at:at + 255]}"' for at in range(0, len(value), 255))
            lines.append(f"{name}. 1 IN {kind} {strings}")
        self.names.publish("acme.com", lines)

    def follow(self):
        """Does the numbered steps up to the sending."""
        first, *steps = self.readme.steps("The first real message")
        self.publish_server(first)
        commands = [re.findall(r"`((?:sudo )?pillarbox [^`]+|export [^`]+)`", step) for step in steps]
        assert all(commands), f"a step has no command: {steps}"
        *before, last = [command for step in commands for command in step]
        for command in before:
            self.do(command)
        return last

    def do(self, command):
        if command.startswith("export "):
            name, _, value = self.readme.adapt(command.removeprefix("export ")).partition("=")
            self.environment[name] = value
        elif "pillarbox doctor" in command:
            # Much is wrong with this machine as a mail server.
            printed = self.run(f"{command} || [ $? -le {DOCTOR_ERROR} ]")
            assert "spf.host" in printed, printed
        elif "domain verify" in command:
            self.until("the domain is verified", lambda: self.run(command, may_fail=True))
        else:
            printed = self.run(command)
            if "domain add" in command:
                self.publish_domain(printed)
            if "key create" in command:
                self.keep_key(printed, of_application="--tenant" in command)
        print(f"ok      {command}", flush=True)

    def keep_key(self, printed, of_application):
        [secret] = re.findall(r"^pb_live_\w+$", printed, re.M)
        if not of_application:
            self.readme.replace("pb_live_…", secret)
            return
        [key] = re.findall(r"^key_\w+", printed, re.M)
        for place, value in (("key_…", key), ("the application's secret", secret), ("THE_APPLICATIONS_SECRET", secret)):
            self.readme.replace(place, value)

    def send(self, show):
        """Sends as README.md shows, in Python and with curl, and waits until both messages are delivered."""
        [script] = self.readme.blocks("Send", "python")
        self.run(f"python3 - <<'END'\n{script}END")
        [script] = self.readme.blocks("Send", "sh")
        accepted = self.run(script)
        assert '"error"' not in accepted, accepted

        def delivered():
            rows = re.findall(r"^(msg_\w+) +delivered ", self.run(show), re.M)
            return rows if len(rows) == 2 else None

        for message in self.until("both messages are delivered", delivered):
            assert "message.delivered" in self.run(f"pillarbox message timeline {message}")
        received = [(one.recipients, b"DKIM-Signature: " in one.content) for one in self.sink.messages]
        assert received == [(["someone@example.org"], True)] * 2, received
        print(f"ok      {show}: two messages are delivered, signed", flush=True)

    def until(self, what, probe):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := probe()):
            assert self.server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            time.sleep(0.1)
        return found

    def stop(self):
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            assert self.server.wait(PATIENCE_SECONDS + 20) == 0, "the server did not end well"


def main():
    sink = Sink()
    with tempfile.TemporaryDirectory(prefix="pillarbox-newcomer-") as folder:
        remote = ["@ 1 IN MX 10 mx.example.org.", "mx 1 IN A 127.0.0.1"]
        zones = {"example.com": [], "acme.com": [], "example.org": remote, "127.in-addr.arpa": []}
        names = NameServer(f"{folder}/names", zones)
        newcomer = Newcomer(folder, names, sink)
        try:
            names.start()
            newcomer.prepare()
            newcomer.install()
            newcomer.send(newcomer.follow())
            assert not newcomer.readme.unused(), f"README.md does not have {newcomer.readme.unused()}"
        except BaseException:
            log = pathlib.Path(folder) / "log"
            print(log.read_text()[-4000:] if log.exists() else "the server did not start", file=sys.stderr)
            raise
        finally:
            newcomer.stop()
            names.stop()
            sink.stop()
    print("the steps of README.md lead to a delivered message")
    return 0


if __name__ == "__main__":
    sys.exit(main())
