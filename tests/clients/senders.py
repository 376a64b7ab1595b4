"""One function for each client, which sends a message as users of this client do. It gets the bytes with CRLF."""

import json
import os
import pathlib
import smtplib
import ssl
import subprocess
import tempfile

from server import HOSTNAME

HERE = pathlib.Path(__file__).resolve().parent
RECIPIENT = "bob@example.net"


def run(command, data=b"", **options):
    """Runs a client; shows its output only if it fails."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr).decode()[-3000:]}")


def with_file(data, action):
    with tempfile.NamedTemporaryFile(suffix=".eml") as file:
        file.write(data)
        file.flush()
        action(file.name)


def python_starttls(server, account, sender, data):
    context = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=context)
        client.login(account.user, account.secret)
        client.sendmail(sender, [RECIPIENT], data, mail_options=["BODY=8BITMIME"])


def python_implicit(server, account, sender, data):
    context = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP_SSL("localhost", server.submissions, timeout=30, context=context) as client:
        client.login(account.user, account.secret)
        client.sendmail(sender, [RECIPIENT], data, mail_options=["BODY=8BITMIME"])


def swaks(server, account, sender, data, *options):
    # The data fix-up of swaks would add a line end, so it is off, and the file has dot-stuffing and the final dot.
    ending = data.replace(b"\r\n.", b"\r\n..") + b"."

    def send(name):
        run(
            ["swaks", "--server", "127.0.0.1", "--from", sender, "--to", RECIPIENT, "--auth", "PLAIN"]
            + ["--auth-user", account.user, "--auth-password", account.secret, "--data", "@" + name]
            + ["--tls-ca-path", str(server.ca_file), "--tls-verify", "--no-data-fixup", *options]
        )

    with_file(ending, send)


def swaks_starttls(server, account, sender, data):
    swaks(server, account, sender, data, "--tls", "--port", str(server.submission))


def swaks_implicit(server, account, sender, data):
    swaks(server, account, sender, data, "--tlsc", "--port", str(server.submissions))


def curl(server, account, sender, data, scheme, port, *options):
    def send(name):
        run(
            ["curl", "--silent", "--show-error", "--url", f"{scheme}://{HOSTNAME}:{port}/client.test"]
            + ["--resolve", f"{HOSTNAME}:{port}:127.0.0.1", "--cacert", str(server.ca_file)]
            + ["--user", f"{account.user}:{account.secret}", "--mail-from", sender]
            + ["--mail-rcpt", RECIPIENT, "--upload-file", name, *options]
        )

    with_file(data, send)


def curl_starttls(server, account, sender, data):
    curl(server, account, sender, data, "smtp", server.submission, "--ssl-reqd")


def curl_implicit(server, account, sender, data):
    curl(server, account, sender, data, "smtps", server.submissions)


def msmtp(server, account, sender, data):
    # msmtp expects the line ends of the system.
    run(
        ["msmtp", "--file=/dev/null", "--host=localhost", f"--port={server.submission}", "--auth=plain"]
        + ["--tls=on", "--tls-starttls=on", f"--tls-trust-file={server.ca_file}", f"--user={account.user}"]
        + [f"--passwordeval=echo {account.secret}", f"--from={sender}", "--", RECIPIENT],
        data.replace(b"\r\n", b"\n"),
    )


def nodemailer(server, account, modules, sender, client, secure):
    """nodemailer composes its own messages of the three kinds. Returns the bytes that it reports as sent, by Message-ID."""
    settings = {
        "port": server.submissions if secure else server.submission,
        "secure": secure,
        "ca": str(server.ca_file),
        "user": account.user,
        "pass": account.secret,
        "from": sender,
        "to": RECIPIENT,
        "client": client,
    }
    done = subprocess.run(
        ["node", HERE / "nodemailer.cjs"],
        input=json.dumps(settings).encode(),
        capture_output=True,
        timeout=120,
        env=os.environ | {"NODE_PATH": str(modules)},
    )
    if done.returncode != 0:
        raise RuntimeError(f"nodemailer: {done.stderr.decode()[-3000:]}")
    return {sent["message_id"]: bytes.fromhex(sent["hex"]) for sent in json.loads(done.stdout)}


# Clients that send given bytes.
SENDERS = {
    "python-starttls": python_starttls,
    "python-implicit": python_implicit,
    "swaks-starttls": swaks_starttls,
    "swaks-implicit": swaks_implicit,
    "curl-starttls": curl_starttls,
    "curl-implicit": curl_implicit,
    "msmtp": msmtp,
}
