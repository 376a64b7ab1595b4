"""A real Postfix with strict settings is the MX: it must accept every message that Pillarbox relays, byte for byte."""

import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
import time

import corpus
import senders
from check import Wrong, check
from server import PATIENCE_SECONDS, REPOSITORY, Server, free_ports

DOMAIN = "acme.example"
SENDER = f"alice@{DOMAIN}"
HOSTNAME = "mx.example.net"

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/maillog
maillog_file_prefixes = /tmp, /var
myhostname = {hostname}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
mynetworks =
virtual_mailbox_domains = example.net
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ bob@example.net=bob/ }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {certificates}/server.crt
smtpd_tls_key_file = {certificates}/server.key
smtpd_peername_lookup = no
smtpd_error_sleep_time = 0
# The strictest settings.
strict_rfc821_envelopes = yes
strict_smtputf8 = yes
strict_7bit_headers = yes
strict_8bitmime_body = yes
strict_mime_encoding_domain = yes
smtpd_forbid_bare_newline = yes
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
smtpd_helo_required = yes
smtpd_helo_restrictions = reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname
smtpd_sender_restrictions = reject_non_fqdn_sender
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_non_fqdn_recipient, reject_unlisted_recipient
smtpd_data_restrictions = reject_unauth_pipelining
message_size_limit = 20000000
"""


class Postfix:
    """A Postfix instance in its own folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        (self.port,) = free_ports(1)
        self.etc = self.folder / "etc"
        owner = pwd.getpwnam("postfix")
        for name in ("etc", "spool", "data", "mail"):
            (self.folder / name).mkdir(parents=True)
        # The processes of Postfix run as other users and need access to this folder.
        self.folder.chmod(0o755)
        self.folder.parent.chmod(0o755)
        for name in ("data", "mail"):
            os.chown(self.folder / name, owner.pw_uid, owner.pw_gid)
        certificates = self.folder / "certs"
        script = [REPOSITORY / "certs/make-dev-certs", "--into", certificates, HOSTNAME]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        (self.etc / "main.cf").write_text(
            MAIN_CF.format(
                folder=self.folder,
                spool=self.folder / "spool",
                data=self.folder / "data",
                certificates=certificates,
                hostname=HOSTNAME,
                uid=owner.pw_uid,
                gid=owner.pw_gid,
            )
        )
        (self.etc / "master.cf").write_text(self.master_cf())
        for name in ("postfix-files", "dynamicmaps.cf"):
            if pathlib.Path("/etc/postfix", name).exists():
                shutil.copy(f"/etc/postfix/{name}", self.etc / name)
        for name in ("postfix-files.d", "dynamicmaps.cf.d"):
            if pathlib.Path("/etc/postfix", name).exists():
                shutil.copytree(f"/etc/postfix/{name}", self.etc / name)

    def master_cf(self):
        """The services that receive, queue and deliver to a maildir, without chroot."""
        services = [
            (f"127.0.0.1:{self.port}", "inet", "n", "smtpd"),
            ("cleanup", "unix", "n", "cleanup"),
            ("qmgr", "unix", "n", "qmgr"),
            ("tlsmgr", "unix", "-", "tlsmgr"),
            ("rewrite", "unix", "-", "trivial-rewrite"),
            ("bounce", "unix", "-", "bounce"),
            ("defer", "unix", "-", "bounce"),
            ("trace", "unix", "-", "bounce"),
            ("proxymap", "unix", "-", "proxymap"),
            ("error", "unix", "-", "error"),
            ("retry", "unix", "-", "error"),
            ("discard", "unix", "-", "discard"),
            ("virtual", "unix", "-", "virtual"),
            ("anvil", "unix", "-", "anvil"),
            ("postlog", "unix-dgram", "n", "postlogd"),
        ]
        unprivileged = {"virtual", "proxymap"}
        limits = dict.fromkeys(("cleanup", "bounce", "defer", "trace"), "0")
        limits |= dict.fromkeys(("qmgr", "tlsmgr", "postlog", "anvil"), "1")
        lines = []
        for name, kind, private, command in services:
            limit = limits.get(name, "-")
            wakeup = {"qmgr": "300", "tlsmgr": "1000?"}.get(name, "-")
            user = "n" if command in unprivileged else "-"
            lines.append(f"{name} {kind} {private} {user} n {wakeup} {limit} {command}")
        return "\n".join(lines) + "\n"

    def start(self):
        self.command("start")

    def stop(self):
        self.command("stop")

    def command(self, verb):
        # No pipe, because the processes of Postfix would keep it open as long as they run.
        with open(self.folder / "said", "w+") as said:
            command = ["/usr/sbin/postfix", "-c", self.etc, verb]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60)
            if done.returncode != 0:
                said.seek(0)
                raise RuntimeError(f"postfix {verb}: {said.read()}{self.log()}")

    def log(self):
        path = self.folder / "maillog"
        return path.read_text() if path.exists() else ""

    def mail(self):
        """The delivered messages, with CRLF as in SMTP; the maildir has LF."""
        files = sorted((self.folder / "mail/bob/new").glob("*"))
        return [file.read_bytes().replace(b"\n", b"\r\n") for file in files]


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-postfix-") as folder:
        postfix = Postfix(pathlib.Path(folder) / "postfix")
        server = Server(pathlib.Path(folder) / "pillarbox", postfix.port)
        postfix.start()
        try:
            server.start()
            account = server.create_account(DOMAIN)
            sent = submit(server, account)
            failures = verify(postfix, sent, account)
        finally:
            server.stop()
            postfix.stop()
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{len(sent)} messages relayed to Postfix, {len(failures)} failures")
    return 1 if failures else 0


def submit(server, account):
    """Sends each of the three kinds several times, so that connections are reused. Returns the bytes by Message-ID."""
    sent = {}
    for number in range(5):
        for kind in corpus.KINDS:
            data, message_id = corpus.message(f"postfix{number}", kind, SENDER, senders.RECIPIENT)
            senders.python_starttls(server, account, SENDER, data)
            sent[message_id] = data
    return sent


def verify(postfix, sent, account):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(postfix.mail()) < len(sent) and time.monotonic() < deadline:
        time.sleep(0.05)
    received = postfix.mail()
    complaints = [line for line in postfix.log().splitlines() if "reject" in line or "warning" in line]
    failures = [f"Postfix says: {line}" for line in complaints]
    for message_id, data in sent.items():
        copies = [mail for mail in received if f"<{message_id}>".encode() in mail]
        if len(copies) != 1:
            failures.append(f"{message_id}: came {len(copies)} times")
            continue
        try:
            check(without_trace(copies[0]), data, account.dkim_records)
            print(f"ok      {message_id}")
        except Wrong as error:
            failures.append(f"{message_id}: {error}")
    return failures


def without_trace(mail):
    """Removes the fields that Postfix prepends; the last of them is Received."""
    start = mail.find(b"Received: from relay.test ")
    if start < 0:
        raise Wrong("no Received field of Postfix")
    end = mail.index(b"\r\n", mail.index(b"; ", start)) + 2
    return mail[end:]


if __name__ == "__main__":
    sys.exit(main())
