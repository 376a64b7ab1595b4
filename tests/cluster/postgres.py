"""A PostgreSQL server of its own on a free loopback port, which can be killed; and a standby of it."""

import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import time

from server import PATIENCE_SECONDS, free_ports

USER = "pillarbox"
DATABASE = "pillarbox"
INSTALLED = sorted(glob.glob("/usr/lib/postgresql/*/bin"))


def program(name):
    """Programs are those of `PILLARBOX_TEST_PG_BIN`, or of the newest installed version. Other packages of the server have no
    client programs."""
    for folder in [os.environ.get("PILLARBOX_TEST_PG_BIN", ""), *reversed(INSTALLED)]:
        path = pathlib.Path(folder) / name
        if folder and path.exists():
            return path
    raise RuntimeError(f"{name} of PostgreSQL is not installed")


def url(*servers):
    """The database on the one of these servers that can be written to, or behind these proxies."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    several = "&target_session_attrs=read-write" if len(servers) > 1 else ""
    return f"postgres://{USER}@{hosts}/{DATABASE}?sslmode=disable{several}"


class Postgres:
    """A data directory and its server process. Commits are synced, as in operation."""

    def __init__(self, folder, name="postgres", settings=(), primary=None):
        """An empty database, or a copy of that of a primary, which it follows."""
        self.data = pathlib.Path(folder) / name
        self.log = pathlib.Path(folder) / f"{name}.log"
        self.port = free_ports(1)[0]
        self.settings = settings
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
        if primary is None:
            self._run_to_end("initdb", "-A", "trust", "--locale=C", "-E", "UTF8", "-U", USER, "-D", self.data)
            self.start()
            self.query(f"CREATE DATABASE {DATABASE}", "postgres")
        else:
            self.data.chmod(0o700)
            source = f"host=127.0.0.1 port={primary.port} user={USER} application_name={name}"
            self._run_to_end("pg_basebackup", "-D", self.data, "-R", "-c", "fast", "-d", source)
            self.start()

    @property
    def version(self):
        return self.query("SHOW server_version")[0]

    def _run(self, name, *arguments):
        user = {} if self.owner is None else {"user": self.owner.pw_uid, "group": self.owner.pw_gid}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [program(name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                extra_groups=[] if user else None,
                **user,
            )

    def _run_to_end(self, name, *arguments):
        if self._run(name, *arguments).wait() != 0:
            raise RuntimeError(f"{name} failed:\n{self.log_tail()}")

    def start(self):
        options = ["-D", self.data, "-c", "listen_addresses=127.0.0.1", "-p", str(self.port)]
        options += ["-c", f"unix_socket_directories={self.data}"]
        for setting in self.settings:
            options += ["-c", setting]
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.process = self._run("postgres", *options)
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.query("SELECT 1", "postgres")
                return
            if self.process.poll() is not None:
                # Sessions of a killed server have not ended yet.
                self.process = self._run("postgres", *options)
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{self.log_tail()}")
            time.sleep(0.05)

    def kill(self):
        """Kills the server with SIGKILL. Its sessions end when they see that."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def remove(self):
        self.stop()
        shutil.rmtree(self.data)

    def log_tail(self):
        return self.log.read_text(errors="replace")[-3000:]

    def _psql(self, database):
        connection = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database]
        return [program("psql"), *connection, "-v", "ON_ERROR_STOP=1", "-qAtX"]

    def query(self, sql, database=DATABASE):
        """The rows of a query, as texts; columns are separated by |."""
        answer = subprocess.run([*self._psql(database), "-c", sql], check=True, capture_output=True, text=True)
        return answer.stdout.splitlines()

    @contextlib.contextmanager
    def open_transaction(self, sql):
        """A session that has begun a transaction with a statement, and leaves it open."""
        session = subprocess.Popen(
            self._psql(DATABASE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            session.stdin.write(f"{sql};\n\\echo begun\n")
            for line in session.stdout:
                if line == "begun\n":
                    break
            else:
                raise RuntimeError(f"the transaction did not begin: {sql}")
            yield
        finally:
            session.stdin.close()
            session.wait()
