"""A PostgreSQL server of its own on a free loopback port, which can be killed."""

import glob
import os
import pathlib
import pwd
import signal
import subprocess
import time

from server import PATIENCE_SECONDS, free_ports

USER = "pillarbox"


class Postgres:
    """A data directory and its server process. Commits are synced, as in operation."""

    def __init__(self, folder):
        self.data = pathlib.Path(folder) / "postgres"
        self.log = pathlib.Path(folder) / "postgres.log"
        self.port = free_ports(1)[0]
        self.programs = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.process = None
        self.data.mkdir()
        self.log.touch()
        # PostgreSQL refuses to run as root.
        self.owner = None
        if os.geteuid() == 0:
            self.owner = pwd.getpwnam("postgres")
            for path in (self.data, self.log):
                os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
            pathlib.Path(folder).chmod(0o755)
        made = self._run("initdb", "-A", "trust", "--locale=C", "-E", "UTF8", "-U", USER, "-D", self.data)
        assert made.wait() == 0, self.log.read_text()
        self.start()
        created = self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "pillarbox")
        assert created.wait() == 0, self.log.read_text()

    @property
    def url(self):
        return f"postgres://{USER}@127.0.0.1:{self.port}/pillarbox?sslmode=disable"

    def _run(self, program, *arguments):
        user = {} if self.owner is None else {"user": self.owner.pw_uid, "group": self.owner.pw_gid}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [self.programs / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                extra_groups=[] if user else None,
                **user,
            )

    def start(self):
        options = ["-D", self.data, "-c", "listen_addresses=127.0.0.1", "-p", str(self.port)]
        options += ["-c", f"unix_socket_directories={self.data}"]
        self.process = self._run("postgres", *options)
        deadline = time.monotonic() + PATIENCE_SECONDS
        ready = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while self._run(*ready).wait() != 0:
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.05)

    def kill(self):
        """Kills the server with SIGKILL. Its sessions end when they see that."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def query(self, sql):
        """The rows of a query, as texts."""
        psql = [self.programs / "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-At", "-c", sql]
        answer = subprocess.run([*psql, "pillarbox"], check=True, capture_output=True, text=True)
        return answer.stdout.split()
