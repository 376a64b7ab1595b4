"""NSD, a real authoritative name server, on a loopback port. Its zones can change while it runs."""

import pathlib
import signal
import socket
import subprocess
import time

from server import PATIENCE_SECONDS, free_ports

CONF = """
server:
  ip-address: 127.0.0.1@{port}
  do-ip6: no
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  logfile: "{folder}/nsd.log"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
remote-control:
  control-enable: no
"""

ZONE = """
zone:
  name: "{name}"
  zonefile: "{name}.zone"
"""


class NameServer:
    """`zones` maps the name of each zone to the lines of its zone file."""

    def __init__(self, folder, zones):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        (self.port,) = free_ports(1)
        self.serial = 0
        for name, lines in zones.items():
            self.write(name, lines)
        conf = CONF.format(port=self.port, folder=self.folder) + "".join(ZONE.format(name=name) for name in zones)
        (self.folder / "nsd.conf").write_text(conf)
        self.process = None

    def write(self, name, lines):
        self.serial += 1
        soa = f"@ 1 IN SOA ns.{name}. hostmaster.{name}. {self.serial} 3600 600 86400 1"
        records = [f"$ORIGIN {name}.", soa, f"@ 1 IN NS ns.{name}.", "ns 1 IN A 127.0.0.1", *lines, ""]
        (self.folder / f"{name}.zone").write_text("\n".join(records))

    def publish(self, name, lines):
        """Replaces the lines of a zone; NSD reads them soon."""
        self.write(name, lines)
        self.process.send_signal(signal.SIGHUP)

    def start(self):
        with open(self.folder / "said", "w") as said:
            command = ["nsd", "-d", "-c", self.folder / "nsd.conf"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    said = [path.read_text() for path in (self.folder / "said", self.folder / "nsd.log") if path.exists()]
                    raise RuntimeError(f"nsd does not serve: {said}") from None
                time.sleep(0.02)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)
