"""Delivers to a real Postfix under DANE and MTA-STS, with our own name server and certificate authority. See `run`."""

import hashlib
import http.server
import pathlib
import smtplib
import ssl
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "clients"))

import postfix as mx  # noqa: E402
from server import PATIENCE_SECONDS, REPOSITORY, Server  # noqa: E402

from signed_zone import SignedZone  # noqa: E402

SENDER_DOMAIN = "acme.example"
WRONG = hashlib.sha256(b"another key").hexdigest()

# For each domain: the name of its MX, the TLSA record of this host, the hosts in its MTA-STS policy, the expected code in
# the reply of the attempt (None if the message must be delivered), and the beginning of the expected `tls_policy`.
# The certificate of Postfix is for mx.example.net.
CASES = {
    "ee.test": ("mx.ee.test", "3 1 1 {leaf}", None, None, "dane: validated TLSA records of mx.ee.test (3 1 1)"),
    "ta.test": ("mx.example.net", "2 1 1 {authority}", None, None, "dane: validated TLSA records of mx.example.net"),
    "wrong.test": ("mx.wrong.test", f"3 1 1 {WRONG}", None, "tls_not_trusted", "dane: "),
    "misnamed.test": ("mx.misnamed.test", "2 1 1 {authority}", None, "tls_not_trusted", "dane: "),
    # DANE has priority over MTA-STS, which would refuse this host.
    "both.test": ("mx.both.test", "3 1 1 {leaf}", "mx.other.test", None, "dane: "),
    "none.test": ("mx.none.test", None, None, None, "opportunistic: no TLSA records"),
    "right.plain": ("mx.example.net", None, "mx.example.net", None, "mta-sts enforce: "),
    "wrong.plain": ("mx.wrong.plain", None, "mx.wrong.plain", "tls_not_trusted", "mta-sts enforce: "),
    "other.plain": ("mx.other.plain", None, "mx.example.net", "mta_sts_host", "mta-sts enforce: "),
    # An unsigned TLSA record is ignored.
    "forged.plain": ("mx.forged.plain", f"3 1 1 {WRONG}", None, None, "opportunistic: the MX records are not signed"),
}

MAIN_CF = """
virtual_mailbox_domains = {domains}
virtual_mailbox_maps = static:bob/
smtpd_tls_chain_files = {certificates}/server.key, {certificates}/server.crt, {certificates}/ca.crt
smtpd_tls_cert_file =
smtpd_tls_key_file =
smtpd_tls_received_header = yes
"""


def digest_of_key(certificate):
    """Returns the SHA-256 of the public key of a PEM certificate, in hexadecimal."""
    key = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-pubkey"], check=True, capture_output=True
    ).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, check=True, capture_output=True
    ).stdout
    return hashlib.sha256(der).hexdigest()


def zone_lines(postfix):
    certificates = postfix.folder / "certs"
    digests = {
        "leaf": digest_of_key(certificates / "server.crt"),
        "authority": digest_of_key(certificates / "ca.crt"),
    }
    lines = []
    for domain, (host, tlsa, sts, _, _) in CASES.items():
        lines += [f"{domain}. 60 IN MX 10 {host}.", f"{host}. 60 IN A 127.0.0.1"]
        if tlsa:
            lines.append(f"_{postfix.port}._tcp.{host}. 60 IN TLSA {tlsa.format(**digests)}")
        if sts:
            lines += [f'_mta-sts.{domain}. 60 IN TXT "v=STSv1; id=1"', f"mta-sts.{domain}. 60 IN A 127.0.0.1"]
    return sorted(set(lines))


class Policies(http.server.BaseHTTPRequestHandler):
    """Serves the policy of the domain in the Host field."""

    def do_GET(self):
        domain = self.headers["Host"].split(":")[0].removeprefix("mta-sts.")
        body = f"version: STSv1\r\nmode: enforce\r\nmx: {CASES[domain][2]}\r\nmax_age: 86400\r\n".encode()
        self.send_response(200 if self.path == "/.well-known/mta-sts.txt" else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve_policies(folder, authority):
    """Serves HTTPS, with a certificate of our authority for every domain that has a policy."""
    names = [f"DNS:mta-sts.{domain}" for domain, case in CASES.items() if case[2]]
    key, request, certificate = (folder / name for name in ("sts.key", "sts.csr", "sts.crt"))
    extensions = folder / "sts.ext"
    extensions.write_text("subjectAltName=" + ",".join(names) + "\n")
    for command in (
        ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
        + ["-subj", "/CN=policies", "-out", request],
        ["x509", "-req", "-in", request, "-CA", authority / "ca.crt", "-CAkey", authority / "ca.key"]
        + ["-set_serial", "2", "-days", "30", "-extfile", extensions, "-out", certificate],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    policies = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Policies)
    policies.socket = context.wrap_socket(policies.socket, server_side=True)
    threading.Thread(target=policies.serve_forever, daemon=True).start()
    return policies


def submit(server, account, domain):
    """Submits a message. Returns its id."""
    context = ssl.create_default_context(cafile=server.ca_file)
    message = f"From: <alice@{SENDER_DOMAIN}>\r\nTo: <bob@{domain}>\r\nSubject: to {domain}\r\n\r\nHello.\r\n"
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=context)
        client.login(account.user, account.secret)
        client.mail(f"alice@{SENDER_DOMAIN}")
        client.rcpt(f"bob@{domain}")
        _, reply = client.data(message)
    return next(word for word in reply.decode().split() if word.startswith("msg_"))


def attempt_of(server, message_id):
    """Waits for the first attempt of a message. Returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        entries = server.call("GET", f"/v1/emails/{message_id}/timeline")["data"]
        attempts = [entry for entry in entries if entry["object"] == "attempt"]
        if attempts:
            return attempts[0]
        time.sleep(0.05)
    raise RuntimeError(f"{message_id} was not tried in time:\n{server.log_tail()}")


def faults_of(case, attempt):
    _, _, _, code, ground = case
    outcome = "delivered" if code is None else "deferred"
    if attempt["outcome"] != outcome:
        yield f"is {attempt['outcome']}, not {outcome}: {attempt['reply']}"
    if code is not None and not attempt["reply"].startswith(f"[{code}]"):
        yield f"{attempt['reply']} is not [{code}]"
    if not (attempt["tls_policy"] or "").startswith(ground):
        yield f"{attempt['tls_policy']} is not {ground}"
    if code is None and not (attempt["tls"] or "").startswith("TLSv1.3 "):
        yield f"went over {attempt['tls']}"


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-policy-") as folder:
        folder = pathlib.Path(folder)
        postfix = mx.Postfix(folder / "postfix")
        certificates = postfix.folder / "certs"
        with open(postfix.etc / "main.cf", "a") as main_cf:
            main_cf.write(MAIN_CF.format(domains=", ".join(CASES), certificates=certificates))
        zone = SignedZone(folder / "zone", zone_lines(postfix))
        policies = serve_policies(folder, certificates)
        relay = f"""
name_servers = ["127.0.0.1:{zone.port}"]
port = {postfix.port}
trust_anchor_file = "{zone.trust_anchor}"
ca_file = "{certificates / 'ca.crt'}"
[relay.mta_sts]
port = {policies.server_port}
"""
        server = Server(folder / "pillarbox", extra=relay)
        postfix.start()
        try:
            zone.start()
            server.start()
            account = server.create_account(SENDER_DOMAIN)
            sent = {domain: submit(server, account, domain) for domain in CASES}
            failures = verify(server, postfix, sent)
        finally:
            server.stop()
            zone.stop()
            postfix.stop()
            policies.shutdown()
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{len(CASES)} TLS policies with Postfix and NSD, {len(failures)} failures")
    return 1 if failures else 0


def verify(server, postfix, sent):
    failures = []
    for domain, message_id in sent.items():
        attempt = attempt_of(server, message_id)
        faults = [f"{domain}: {fault}" for fault in faults_of(CASES[domain], attempt)]
        failures += faults
        if not faults:
            print(f"ok      {domain}: {attempt['outcome']}, {attempt['tls_policy']}")
    expected = {domain for domain, case in CASES.items() if case[3] is None}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(postfix.mail()) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    taken = postfix.mail()
    for domain in CASES:
        copies = [mail for mail in taken if f"Subject: to {domain}\r\n".encode() in mail]
        if len(copies) != int(domain in expected):
            failures.append(f"{domain}: Postfix has it {len(copies)} times")
        if any(b"(using TLSv1.3 " not in mail for mail in copies):
            failures.append(f"{domain}: Postfix did not get it over TLS")
    return failures


if __name__ == "__main__":
    sys.exit(main())
