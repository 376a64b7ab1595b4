"""Pillarbox logs in to a Postfix that uses the SCRAM of Cyrus SASL. See `run`."""

import os
import pathlib
import pwd
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients"))

import postfix as smart_host  # noqa: E402
from server import PATIENCE_SECONDS, Server  # noqa: E402

USER, PASSWORD = "relay", "right, and =long enough"

MAIN_CF = """
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = {sasl}
smtpd_tls_auth_only = yes
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""

SMTPD_CONF = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {sasl}/users
mech_list: SCRAM-SHA-256 PLAIN LOGIN
"""


def demand_login(postfix):
    """Configures one account, and refuses mail without login."""
    # Debian's Postfix looks here first, regardless of its configuration.
    sasl = postfix.etc / "sasl"
    sasl.mkdir()
    (sasl / "smtpd.conf").write_text(SMTPD_CONF.format(sasl=sasl))
    command = ["saslpasswd2", "-p", "-c", "-f", sasl / "users", "-u", smart_host.HOSTNAME, USER]
    subprocess.run(command, input=PASSWORD.encode(), check=True)
    owner = pwd.getpwnam("postfix")
    os.chown(sasl / "users", owner.pw_uid, owner.pw_gid)
    with open(postfix.etc / "main.cf", "a") as main_cf:
        main_cf.write(MAIN_CF.format(sasl=sasl))


def submit(server, domain, port, password):
    """Submits a message of a tenant whose smart host has this password. Returns its id."""
    account = server.create_account(domain, slug=domain.split(".")[0])
    smtp = {"host": "127.0.0.1", "port": port, "tls": "starttls", "user": USER, "pass": password}
    server.call("PATCH", f"/v1/tenants/{account.tenant_id}", {"smtp": smtp})
    message = f"From: <alice@{domain}>\r\nTo: <bob@example.net>\r\nSubject: from {domain}\r\n\r\nHello.\r\n"
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=ssl.create_default_context(cafile=server.ca_file))
        client.login(account.user, account.secret)
        client.mail(f"alice@{domain}")
        client.rcpt("bob@example.net")
        _, reply = client.data(message)
    return next(word for word in reply.decode().split() if word.startswith("msg_"))


def last_reply(server, message_id):
    """Waits for a reply for the recipient. Returns the last one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        delivery = server.call("GET", f"/v1/emails/{message_id}")["deliveries"][0]
        if delivery["last_reply"]:
            return delivery["last_reply"]
        time.sleep(0.05)
    raise RuntimeError(f"{message_id} was not tried in time:\n{server.log_tail()}")


def faults_of(server, postfix):
    reply = last_reply(server, submit(server, "right.example", postfix.port, PASSWORD))
    if not reply.startswith("250 "):
        yield f"the right password: {reply}"
    reply = last_reply(server, submit(server, "wrong.example", postfix.port, "wrong"))
    if not reply.startswith("back-off: ") or "535 5.7.8" not in reply:
        yield f"the wrong password: {reply}"
    taken = [line for line in postfix.log().splitlines() if "sasl_method=" in line]
    if len(taken) != 1 or f"sasl_method=SCRAM-SHA-256, sasl_username={USER}" not in taken[0]:
        yield f"Postfix took {taken}"
    refused = [line for line in postfix.log().splitlines() if "authentication failed" in line]
    if len(refused) != 1 or "SASL SCRAM-SHA-256 authentication failed" not in refused[0]:
        yield f"Postfix refused {refused}"


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-scram-") as folder:
        folder = pathlib.Path(folder)
        postfix = smart_host.Postfix(folder / "postfix")
        demand_login(postfix)
        authority = postfix.folder / "certs/ca.crt"
        server = Server(folder / "pillarbox", extra=f'ca_file = "{authority}"\n')
        postfix.start()
        try:
            server.start()
            faults = list(faults_of(server, postfix))
        finally:
            server.stop()
            postfix.stop()
    for fault in faults:
        print(f"FAILED  {fault}")
    print(f"2 logins at Postfix with Cyrus SASL, {len(faults)} failures")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
