"""The header fields, the link and the page of a message of a list. See `run`."""

import email
import email.policy
import os
import pathlib
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients"))

import dkim  # noqa: E402
from browser import Browser  # noqa: E402
from check import lookup  # noqa: E402
from server import PATIENCE_SECONDS, Server, free_ports  # noqa: E402
from sink import Sink  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SENDER = "news@acme.example"
ADDED = [b"List-Unsubscribe: <https://evil.example/>\r\n", b"List-Unsubscribe-Post: x\r\n", b"From: evil@evil.example\r\n"]


def submit(server, account, recipient, list_name):
    """Returns the reply to the message."""
    message = (
        f"From: Acme <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: News\r\nX-Pillarbox-List: {list_name}\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nHello.\r\n"
    )
    with smtplib.SMTP("localhost", server.submission, timeout=30) as client:
        client.starttls(context=ssl.create_default_context(cafile=server.ca_file))
        client.login(account.user, account.secret)
        client.mail(SENDER)
        client.rcpt(recipient)
        return client.data(message)


def received(sink, count):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(sink.messages) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(sink.messages)} of {count} messages came")
        time.sleep(0.05)
    return sink.messages[-1].content


def dkimpy(content, records):
    signatures = content.split(b"\r\n\r\n")[0].count(b"DKIM-Signature:")
    find = lambda name, timeout=5: lookup(name, records)  # noqa: E731
    return [dkim.DKIM(content).verify(index, find) for index in range(signatures)]


def mail_dkim(content, records):
    pairs = [text for pair in records.items() for text in pair]
    ran = subprocess.run(["perl", HERE / "mail_dkim.pl", *pairs], input=content, capture_output=True, check=True)
    return [line.split()[1] == "pass" for line in ran.stdout.decode().splitlines()]


def check_signatures(content, records):
    for verify in (dkimpy, mail_dkim):
        results = verify(content, records)
        assert len(results) >= 1 and all(results), f"{verify.__name__}: {results}"
        for field in ADDED:
            results = verify(field + content, records)
            assert results and not any(results), f"{verify.__name__} accepts a second {field}: {results}"


def ways_of(content):
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click", parsed.items()
    assert "X-Pillarbox-List" not in parsed, parsed.items()
    ways = [way.strip(" <>\r\n\t") for way in parsed["List-Unsubscribe"].split(",")]
    assert len(ways) == 1, f"without an inbound listener there is no address: {ways}"
    return ways[0]


def suppressed(server):
    return [(one["address"], one.get("list")) for one in server.call("GET", "/v1/suppressions")["data"]]


def press_the_buttons(server, url):
    pictures = pathlib.Path(os.environ["SCREENSHOTS"]) if "SCREENSHOTS" in os.environ else None
    for width, height in ((390, 844), (1280, 800)):
        for dark in (False, True):
            with Browser(width, height, dark) as browser:
                browser.open(url)
                assert "acme" in browser.text().lower() and "b…@b.example" in browser.text(), browser.text()
                assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), "it is too wide"
                colour = browser.run("return getComputedStyle(document.body).backgroundColor")
                assert (colour == "rgb(19, 20, 22)") is dark, f"the style is not applied: {colour}"
                if pictures:
                    browser.screenshot(pictures / f"ask-{width}-{'dark' if dark else 'light'}.png")
    assert suppressed(server) == [], "only looking at the page changed something"
    with Browser() as browser:
        browser.open(url)
        browser.press("button.primary")
        browser.wait_for("You are unsubscribed")
        assert browser.run("return location.href") == url, "the POST redirects"
        if pictures:
            browser.screenshot(pictures / "left.png")
        assert len(suppressed(server)) == 1, suppressed(server)
        browser.press("button")
        browser.wait_for("any list")
        assert len(suppressed(server)) == 2, suppressed(server)
        complaints = [text for text in browser.messages() if "favicon" not in text]
        assert complaints == [], complaints
        browser.open(url[:-5])
        assert "does not work" in browser.text(), browser.text()
        if pictures:
            browser.screenshot(pictures / "not-found.png")


def main():
    with tempfile.TemporaryDirectory() as folder:
        (port,) = free_ports(1)
        url = f"http://localhost:{port}"
        public = f'[public]\nlisten = ["127.0.0.1:{port}"]\nurl = "{url}"\n'
        sink = Sink()
        server = Server(pathlib.Path(folder) / "server", sink.port, extra=public)
        try:
            server.start()
            account = server.create_account("acme.example")
            code, reply = submit(server, account, "bob@b.example", "news")
            assert code == 250, reply
            content = received(sink, 1)
            check_signatures(content, account.dkim_records)
            link = ways_of(content)
            assert link.startswith(f"{url}/u/"), link
            press_the_buttons(server, link)
            for name in ("news", "offers"):
                code, reply = submit(server, account, "bob@b.example", name)
                assert code == 550 and b"recipient_unsubscribed" in reply, (code, reply)
            assert "/u/" not in (server.folder / "log").read_text(), "the log has a link"
        finally:
            server.stop()
            sink.stop()
    print("unsubscribe: signatures, page and buttons are right")


main()
