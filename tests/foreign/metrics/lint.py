"""promtool reads the metrics of a server. See `run`."""

import pathlib
import smtplib
import ssl
import subprocess
import sys
import tempfile
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients"))

from server import Server  # noqa: E402

MESSAGE = "From: <alice@acme.example>\r\nTo: <bob@example.net>\r\nSubject: counted\r\n\r\nHello.\r\n"


def submit(server, account):
    """Submits a message, and tries a foreign sender and a wrong password, so that most counters have a series."""
    context = ssl.create_default_context(cafile=server.ca_file)
    context.check_hostname = False
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=context)
        try:
            client.login(account.user, account.secret + "x")
            raise SystemExit("a wrong password was accepted")
        except smtplib.SMTPAuthenticationError:
            pass
        client.login(account.user, account.secret)
        client.sendmail("alice@acme.example", "bob@example.net", MESSAGE)
        try:
            client.sendmail("alice@foreign.example", "bob@example.net", MESSAGE)
            raise SystemExit("a foreign sender was accepted")
        except smtplib.SMTPSenderRefused:
            pass


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-metrics-") as folder:
        server = Server(folder, 9)
        server.start()
        try:
            submit(server, server.create_account("acme.example"))
            with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics", timeout=30) as answer:
                text = answer.read()
        finally:
            server.stop()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    said = (checked.stdout + checked.stderr).decode().strip()
    print(said or "ok      promtool check metrics says nothing")
    return 1 if said or checked.returncode else 0


sys.exit(main())
