"""A receiver that uses the library of Standard Webhooks gets events from the real binary, also after a rotation of the
secret and after a kill between an event and its delivery. See `run`."""

import http.server
import json
import smtplib
import ssl
import sys
import tempfile
import threading
import time

from sink import Sink
from server import PATIENCE_SECONDS, Refused, Server
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

DOMAIN = "acme.example"


class Receiver:
    """Records the events; answers 503 as long as `is_open` is false."""

    def __init__(self):
        self.heard, self.is_open = [], True
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.heard.append((dict(self.headers.items()), body))
                self.send_response(204 if receiver.is_open else 503)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, what, probe):
        """Waits for the first event that matches `probe`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for headers, body in list(self.heard):
                if probe(headers, json.loads(body)):
                    return headers, body
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {what}; heard {[body for _, body in self.heard]}")


def send(server, account, recipient):
    with smtplib.SMTP_SSL("127.0.0.1", server.submissions, context=unchecked()) as client:
        client.login(account.user, account.secret)
        client.sendmail(f"app@{DOMAIN}", [recipient], f"From: app@{DOMAIN}\r\nSubject: x\r\n\r\nhello\r\n")


def unchecked():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def verify(what, secret, heard):
    """Raises an error if the library refuses the request, or accepts a changed one."""
    headers, body = heard
    event = Webhook(secret).verify(body, headers)
    for changed in (body + b" ", body.replace(b"event", b"Event", 1)):
        try:
            Webhook(secret).verify(changed, headers)
        except WebhookVerificationError:
            continue
        raise AssertionError("a changed body was taken")
    print(f"ok      {what}: {event['type']} {headers['webhook-id']}")
    return event


def check(server, account, receiver):
    wanted = {"url": receiver.url, "tenant_id": account.tenant_id}
    hook = server.call("POST", "/v1/webhooks", wanted)
    secret = hook["secret"]
    for recipient, kind in (("good@remote.example", "message.delivered"), ("bad@remote.example", "message.bounced")):
        send(server, account, recipient)
        is_it = lambda _, event: event["type"] == kind and event["recipient"] == recipient
        event = verify("a message", secret, receiver.wait_for(kind, is_it))
        assert event["tenant_id"] == account.tenant_id, event

    rotated = server.call("POST", f"/v1/webhooks/{hook['id']}/rotate-secret")
    told = server.call("POST", f"/v1/webhooks/{hook['id']}/test")
    heard = receiver.wait_for("the test", lambda headers, _: headers["webhook-id"] == told["id"])
    verify("the secret before", secret, heard)
    verify("the new secret", rotated["secret"], heard)

    receiver.is_open = False
    receiver.heard.clear()
    told = server.call("POST", f"/v1/webhooks/{hook['id']}/test")
    is_it = lambda headers, _: headers["webhook-id"] == told["id"]
    receiver.wait_for("the test that fails", is_it)
    server.kill()
    receiver.heard.clear()
    receiver.is_open = True
    server.start()
    verify("after a kill", rotated["secret"], receiver.wait_for("the test after a kill", is_it))

    try:
        server.call("POST", "/v1/webhooks", {"url": "http://hooks.example/"})
    except Refused as refused:
        assert "422" in str(refused), refused
    else:
        raise AssertionError("plain http to any host was taken")


def main():
    sink = Sink(lambda address: "550 5.1.1 nobody" if address.startswith("bad@") else None)
    extra = """
[webhooks]
allowed_private_networks = ["127.0.0.0/8"]
plain_http_hosts = ["127.0.0.1"]
"""
    with tempfile.TemporaryDirectory(prefix="pillarbox-webhooks-") as folder:
        server = Server(folder, sink.port, extra=extra)
        server.start()
        try:
            check(server, server.create_account(DOMAIN), Receiver())
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()
            sink.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
