"""Our own root zone, signed by ldns and served by NSD, with one unsigned delegation."""

import pathlib
import socket
import subprocess
import time

from server import PATIENCE_SECONDS, free_ports

UNSIGNED = "plain"

SOA = """
@ 60 IN SOA ns.test. hostmaster.test. 1 3600 600 86400 60
@ 60 IN NS ns.test.
"""

NSD_CONF = """
server:
  ip-address: 127.0.0.1@{port}
  do-ip6: no
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  logfile: "{folder}/nsd.log"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone.signed"
zone:
  name: "{unsigned}."
  zonefile: "{unsigned}.zone"
"""


class SignedZone:
    """`records` are lines of a zone file with full names. Names under `plain.` are in the unsigned zone."""

    def __init__(self, folder, records):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        (self.port,) = free_ports(1)
        is_unsigned = [line.split()[0].endswith(f".{UNSIGNED}.") for line in records]
        signed = [line for line, plain in zip(records, is_unsigned) if not plain]
        delegation = [f"{UNSIGNED}. 60 IN NS ns.test.", "ns.test. 60 IN A 127.0.0.1"]
        self.write("root.zone", ".", signed + delegation)
        self.write(f"{UNSIGNED}.zone", f"{UNSIGNED}.", [line for line, plain in zip(records, is_unsigned) if plain])
        key = self.run("ldns-keygen", "-a", "ED25519", "-k", ".").strip()
        self.run("ldns-signzone", "-o", ".", "-f", "root.zone.signed", "root.zone", key)
        self.trust_anchor = self.folder / f"{key}.key"
        conf = NSD_CONF.format(port=self.port, folder=self.folder, unsigned=UNSIGNED)
        (self.folder / "nsd.conf").write_text(conf)
        self.process = None

    def write(self, name, origin, lines):
        (self.folder / name).write_text("\n".join([f"$ORIGIN {origin}", SOA, *lines, ""]))

    def run(self, *command):
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self):
        command = ["nsd", "-d", "-c", self.folder / "nsd.conf"]
        with open(self.folder / "said", "w") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = self.folder / "nsd.log"
                    said = (self.folder / "said").read_text() + (log.read_text() if log.exists() else "")
                    raise RuntimeError(f"nsd does not serve: {said}") from None
                time.sleep(0.02)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
