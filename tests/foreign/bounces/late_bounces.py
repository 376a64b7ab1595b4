"""Postfix and Exim accept mail and bounce it later; postgrey delays mail by its reverse path. See `run`."""

import os
import pathlib
import pwd
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "clients"))

import postfix as mx  # noqa: E402
from name_server import NameServer  # noqa: E402
from server import PATIENCE_SECONDS, Refused, Server, free_ports  # noqa: E402

FOREIGN = pathlib.Path(os.environ["FOREIGN"])
EXIM_BINARY = FOREIGN / "usr/sbin/exim4"
DOMAIN = "acme.example"
RETURN_HOST = f"bounces.{DOMAIN}"
GREYLISTED_SECONDS = 3
# All listen at one port, because an MX record has none.
POSTFIX, INBOUND, EXIM, GREYLISTING = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")

# It accepts recipients that it does not have, and sends reports to our listener.
ACCEPTING = """
virtual_mailbox_domains = {domain}
virtual_mailbox_maps = inline:{{ bob@{domain}=bob/ }}
smtpd_tls_security_level = may
smtpd_sender_restrictions =
smtpd_recipient_restrictions = {restrictions}
smtpd_reject_unlisted_recipient = no
relayhost = [{inbound}]:{port}
disable_dns_lookups = yes
smtp_tls_security_level = may
"""

EXIM_CONF = """
primary_hostname = exim.test
exim_path = {binary}
local_interfaces = {address}
daemon_smtp_ports = {port}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
tls_advertise_hosts =
keep_environment =
acl_smtp_rcpt = all
acl_smtp_data = all
begin acl
all:
  accept
begin routers
unknown:
  driver = redirect
  domains = exim.test
  allow_fail
  data = :fail: 550 5.1.1 there is no such person
reports:
  driver = manualroute
  route_list = * {inbound}
  self = send
  transport = back
begin transports
back:
  driver = smtp
  port = {port}
  allow_localhost
begin retry
* * F,1h,1m
"""


class PostfixAt(mx.Postfix):
    """A Postfix at an address and a given port, which also sends."""

    def __init__(self, folder, address, port, domain, restrictions=""):
        self.address, self.listen_port = address, port
        super().__init__(folder)
        with open(self.etc / "main.cf", "a") as main_cf:
            main_cf.write(
                ACCEPTING.format(
                    domain=domain, restrictions=restrictions or "permit", inbound=INBOUND, port=port
                )
            )

    def master_cf(self):
        lines = super().master_cf().splitlines()
        return "\n".join(
            [f"{self.address}:{self.listen_port} inet n - n - - smtpd", *lines[1:], "smtp unix - - n - - smtp", ""]
        )


class Exim:
    """An Exim in the foreground."""

    def __init__(self, folder, port):
        self.folder = folder
        folder.mkdir()
        (folder / "spool").mkdir()
        owner = pwd.getpwnam("Debian-exim")
        for path in (folder, folder / "spool"):
            path.chmod(0o755)
            os.chown(path, owner.pw_uid, owner.pw_gid)
        self.conf = folder / "exim.conf"
        self.conf.write_text(EXIM_CONF.format(address=EXIM, port=port, inbound=INBOUND, folder=folder, binary=EXIM_BINARY))
        self.process = None

    def start(self):
        with open(self.folder / "said", "w") as said:
            command = [EXIM_BINARY, "-C", self.conf, "-bdf", "-q30s"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)

    def log(self):
        logs = sorted(self.folder.glob("*log")) + [self.folder / "said"]
        return "\n".join(path.read_text(errors="replace") for path in logs if path.exists())


class Postgrey:
    """The policy service."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        (self.port,) = free_ports(1)
        owner = pwd.getpwnam("postfix")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        self.process = None

    def start(self):
        command = ["perl", "-T", FOREIGN / "usr/sbin/postgrey", f"--inet=127.0.0.1:{self.port}", f"--dbdir={self.folder}"]
        command += [f"--delay={GREYLISTED_SECONDS}", "--user=postfix", "--group=postfix", "--auto-whitelist-clients=0"]
        for kind in ("clients", "recipients"):
            (self.folder / kind).write_text("")
            command.append(f"--whitelist-{kind}={self.folder / kind}")
        with open(self.folder / "said", "w") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)


def until(what, found, seconds=PATIENCE_SECONDS):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.1)
    raise RuntimeError(f"not in time: {what}")


def submit(server, account, recipient):
    """Submits a message. Returns its id."""
    context = ssl.create_default_context(cafile=server.ca_file)
    message = f"From: <alice@{DOMAIN}>\r\nTo: <{recipient}>\r\nSubject: hello\r\n\r\nHello.\r\n"
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=context)
        client.login(account.user, account.secret)
        client.mail(f"alice@{DOMAIN}")
        client.rcpt(recipient)
        _, reply = client.data(message)
    return next(word for word in reply.decode().split() if word.startswith("msg_"))


def status_of(server, message_id):
    return server.call("GET", f"/v1/emails/{message_id}")["deliveries"][0]


def zones():
    return {
        "relay.test": [
            f"@ 1 IN A {INBOUND}",
            '@ 1 IN TXT "v=spf1 ip4:127.0.0.0/8 -all"',
            "bounce 1 IN MX 10 relay.test.",
            'bounce 1 IN TXT "v=spf1 include:relay.test -all"',
        ],
        DOMAIN: ["bounces 1 IN CNAME bounce.relay.test."],
        "postfix.test": ["@ 1 IN MX 10 mx.postfix.test.", f"mx 1 IN A {POSTFIX}"],
        "exim.test": ["@ 1 IN MX 10 mx.exim.test.", f"mx 1 IN A {EXIM}"],
        "grey.test": ["@ 1 IN MX 10 mx.grey.test.", f"mx 1 IN A {GREYLISTING}"],
    }


def check_late_bounce(server, account, recipient):
    message_id = submit(server, account, recipient)
    delivery = until(f"{recipient} bounced", lambda: bounced(server, message_id))
    if delivery["bounce_class"] != "recipient_unknown":
        yield f"{recipient}: {delivery}"
    events = server.call("GET", f"/v1/events?message_id={message_id}")["data"]
    kinds = [event["type"] for event in reversed(events)]
    for expected in ("message.delivered", "message.bounced"):
        if kinds.count(expected) != 1:
            yield f"{recipient}: {kinds}"
    late = [event["data"] for event in events if event["type"] == "message.bounced"]
    if not (late and late[0].get("late") is True and late[0].get("report_id")):
        yield f"{recipient}: {late}"


def bounced(server, message_id):
    delivery = status_of(server, message_id)
    return delivery if delivery["status"] == "bounced" else None


def check_greylisting(server, account):
    first = submit(server, account, "bob@grey.test")
    until("postgrey deferred it", lambda: "greylist" in (status_of(server, first)["last_reply"] or "").lower())

    def retried():
        try:
            server.call("POST", f"/v1/emails/{first}/retry")
        except Refused as refused:
            # The server has retried meanwhile.
            if "message_finished" not in str(refused):
                raise
        until("an attempt ended", lambda: status_of(server, first)["status"] in ("deferred", "delivered"))
        return status_of(server, first)["status"] == "delivered"

    until("the same sender passes after the delay", retried)
    second = submit(server, account, "bob@grey.test")
    delivery = until("a second message", lambda: settled(server, second))
    if (delivery["status"], delivery["attempts"]) != ("delivered", 1):
        yield f"the second message was delayed: {delivery}"


def settled(server, message_id):
    delivery = status_of(server, message_id)
    return delivery if delivery["status"] in ("delivered", "deferred") else None


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-bounces-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        (port,) = free_ports(1)
        names = NameServer(folder / "names", zones())
        postgrey = Postgrey(folder / "postgrey")
        greylist = f"check_policy_service inet:127.0.0.1:{postgrey.port}, permit"
        mail_hosts = [
            PostfixAt(folder / "postfix", POSTFIX, port, "postfix.test"),
            Exim(folder / "exim", port),
            PostfixAt(folder / "grey", GREYLISTING, port, "grey.test", greylist),
        ]
        relay = f'name_servers = ["127.0.0.1:{names.port}"]\nport = {port}\n[inbound]\nlisten = ["{INBOUND}:{port}"]\n'
        server = Server(folder / "pillarbox", extra=relay)
        services = [names, postgrey, *mail_hosts, server]
        failures = []
        try:
            for service in services:
                service.start()
            account = server.create_account(DOMAIN)
            domains = server.call("GET", f"/v1/domains?name={DOMAIN}")["data"]
            path = f"/v1/domains/{domains[0]['id']}/verify"
            until("the return host is active", lambda: server.call("POST", path)["return_path"]["status"] == "active")
            for recipient in ("nobody@postfix.test", "nobody@exim.test"):
                faults = list(check_late_bounce(server, account, recipient))
                failures += faults
                if not faults:
                    print(f"ok      {recipient}: bounced late")
            faults = list(check_greylisting(server, account))
            failures += faults
            if not faults:
                print("ok      postgrey delays the first message only")
        except Exception:
            print(*(service.log() for service in mail_hosts), sep="\n", file=sys.stderr)
            if server.process is not None:
                print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            for service in reversed(services):
                service.stop()
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"late bounces of Postfix and Exim, and postgrey: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
