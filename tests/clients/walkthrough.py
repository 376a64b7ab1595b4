"""Sets up the first customer of a platform step by step with curl, over HTTP and SMTP, with a real name server and a
receiver that uses the library of Standard Webhooks. Checks that every response has the documented fields. See `run`."""

import json
import subprocess
import sys
import tempfile
import time

from name_server import NameServer
from server import HOSTNAME, PATIENCE_SECONDS, Server
from sink import Sink
from webhooks import Receiver, verify

DOMAIN = "acme.example"
FOREIGN = "foreign.example"

# The fields of each object type.
SHAPES = {
    "tenant": """id object name slug external_ref metadata settings rate_limit smtp source_pool retention_days
        body_retention_days weight status archived_at deletable_at created_at updated_at""",
    "domain": """id object tenant_id name status status_reason status_hint verification subdomains return_path dns_records
        last_checked_at failing_since verified_at created_at""",
    "key": """id object name tenant_id status environment scopes allowed_domain_ids restricted_to_domains allowed_cidrs
        expires_at created_at last_used_at revoked_at rotated_at previous_secret_until last_four""",
    "email": """id object kind tenant_id key_id environment status from to recipient_count header_from subject message_id
        size list dkim_domain last_reply tags metadata created_at send_at expires_at""",
    "webhook": """id object url tenant_id events environments status disabled_reason failing_since previous_secret_until
        created_at updated_at""",
    "event": """id object type tenant_id environment external_ref message_id delivery_id recipient tags metadata data
        created_at""",
    "report": """id object tenant_id environment message_id delivery_id kind effect action status bounce_class feedback_type
        recipient reply reporter rule times has_raw created_at last_received_at""",
    "rejection": "id object tenant_id key_id environment stage code message client_address created_at",
    "usage": """object tenant_id period environment emails_sent emails_delivered emails_bounced
        emails_bounced_late emails_complained emails_unsubscribed emails_suppressed emails_rejected email_test api_requests""",
    "list": "object data has_more next_cursor",
}
RECORD = "purpose type name value alternatives status found hint required dkim_key_state"
DELIVERY = "id object recipient status attempts next_attempt_at last_reply bounce_class updated_at"
ACCEPTED = "id object status send_at suppressed"
REMOVAL = "id object deleted dry_run counts"
ERROR = "type code message hint request_id errors"


def check_shape(value, shape, more=()):
    wanted = set(shape.split()) | set(more)
    assert set(value) == wanted, f"fields {sorted(set(value) ^ wanted)} are too many or missing in {value}"


def step(what):
    print(f"ok      {what}")


class Platform:
    """Runs curl with the key of the caller."""

    def __init__(self, server):
        self.server = server

    def http(self, key, method, path, body=None, status=200):
        command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE_SECONDS), "--request", method]
        command += ["--write-out", "\n%{http_code}", "--header", f"Authorization: Bearer {key}"]
        if body is not None:
            command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        done = run([*command, f"http://127.0.0.1:{self.server.api}{path}"])
        assert done.returncode == 0, f"{method} {path}: {done.stderr}"
        text, _, code = done.stdout.rpartition("\n")
        assert int(code) == status, f"{method} {path}: {code}, not {status}: {text}"
        answer = json.loads(text)
        if status >= 400:
            check_shape(answer, "error")
            check_shape(answer["error"], ERROR)
            assert answer["error"]["hint"], answer
            return answer["error"]
        return answer

    def get(self, key, path, more=()):
        """Gets an object or a list, and checks its fields."""
        answer = self.http(key, "GET", path)
        check_shape(answer, SHAPES[answer["object"]], more)
        for item in answer["data"] if answer["object"] == "list" else ():
            check_shape(item, SHAPES[item["object"]])
        return answer

    def smtp(self, key, sender, recipient):
        """Sends a message over SMTP. Returns the exit status of curl and the dialogue."""
        message = f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: over SMTP\r\n\r\nhello\r\n"
        url = f"smtp://{HOSTNAME}:{self.server.submission}"
        command = ["curl", "--silent", "--verbose", "--ssl-reqd", url, "--cacert", self.server.ca_file]
        command += ["--resolve", f"{HOSTNAME}:{self.server.submission}:127.0.0.1", "--user", f"{key['id']}:{key['secret']}"]
        command += ["--mail-from", sender, "--mail-rcpt", recipient, "--upload-file", "-"]
        done = run([*command, "--max-time", str(PATIENCE_SECONDS)], input=message)
        return done.returncode, done.stderr


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS + 10, check=False, **more)


def until(what, probe):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
    return found


def zone_lines(records):
    """Converts the DNS records of a domain to lines of a zone file, as an administrator would."""
    for record in records:
        value = record["value"]
        strings = " ".join(f'"{value[at:at + 255]}"' for at in range(0, len(value), 255))
        yield f"{record['name']}. 1 IN {record['type']} {strings}"


def create_tenant(platform, key):
    wanted = {"name": "Acme Ltd", "slug": "acme", "external_ref": "customer-17"}
    # A bounce must be an event only, without mail to the sender.
    settings = {"delivery_reports": "event"}
    tenant = platform.http(key, "POST", "/v1/tenants", {**wanted, "settings": settings}, 201)
    check_shape(tenant, SHAPES["tenant"])
    assert {name: tenant[name] for name in wanted} == wanted and tenant["status"] == "active", tenant
    listed = platform.get(key, "/v1/tenants")["data"]
    assert listed[0] == tenant and [one["slug"] for one in listed] == ["acme", "default"], listed
    assert platform.http(key, "POST", "/v1/tenants", wanted, 409)["type"] == "conflict"
    step("a tenant with a slug and a reference of the platform")
    return tenant


def prove_domain(platform, key, tenant, names):
    domain = platform.http(key, "POST", "/v1/domains", {"name": DOMAIN, "tenant_id": tenant["id"]}, 201)
    check_shape(domain, SHAPES["domain"])
    for record in domain["dns_records"]:
        check_shape(record, RECORD)
    purposes = {record["purpose"] for record in domain["dns_records"]}
    assert purposes == {"ownership", "dkim", "spf", "dmarc"}, purposes
    path = f"/v1/domains/{domain['id']}"
    early = platform.http(key, "POST", f"{path}/verify")
    assert early["status"] == "pending", early
    names.publish(DOMAIN, zone_lines(domain["dns_records"]))

    def verified():
        checked = platform.http(key, "POST", f"{path}/verify")
        return checked["status"] == "verified" and checked

    checked = until("the domain is verified", verified)
    assert {record["status"] for record in checked["dns_records"]} == {"ok"}, checked
    assert platform.get(key, path)["verified_at"], checked
    step("a domain, proved by the records that it asked for")
    return domain


def create_key(platform, key, tenant, domain):
    wanted = {
        "name": "web shop",
        "tenant_id": tenant["id"],
        "scopes": ["smtp:send", "emails:send", "emails:read", "usage:read"],
        "allowed_domain_ids": [domain["id"]],
    }
    created = platform.http(key, "POST", "/v1/keys", wanted, 201)
    check_shape(created, SHAPES["key"], ["secret"])
    shown = platform.get(key, f"/v1/keys/{created['id']}")
    assert shown["allowed_domain_ids"] == [domain["id"]] and shown["last_four"] == created["secret"][-4:], shown
    step("a key that is bound to the domain, its secret told once")
    return created


def create_webhook(platform, key, tenant, receiver):
    wanted = {"url": receiver.url, "tenant_id": tenant["id"], "events": ["message.delivered", "message.bounced"]}
    hook = platform.http(key, "POST", "/v1/webhooks", wanted, 201)
    check_shape(hook, SHAPES["webhook"], ["secret"])
    platform.get(key, f"/v1/webhooks/{hook['id']}")
    return hook


def mail(sender, recipient):
    return {"from": sender, "to": [recipient], "subject": "over HTTP", "text": "hello"}


def send(platform, key, sink):
    accepted = platform.http(key["secret"], "POST", "/v1/emails", mail(f"shop@{DOMAIN}", "good@remote.example"), 202)
    check_shape(accepted, ACCEPTED)
    status, dialogue = platform.smtp(key, f"shop@{DOMAIN}", "bad@remote.example")
    assert status == 0, dialogue
    for subject, path, end in (("over HTTP", f"/v1/emails/{accepted['id']}", "delivered"), ("over SMTP", None, "bounced")):
        if path is None:
            listed = platform.get(key["secret"], "/v1/emails")["data"]
            path = f"/v1/emails/{next(one['id'] for one in listed if one['subject'] == subject)}"

        def ended():
            email = platform.get(key["secret"], path, ["deliveries"])
            return email["status"] == end and email

        email = until(f"the message {subject} is {end}", ended)
        assert (email["subject"], email["dkim_domain"]) == (subject, DOMAIN), email
        for delivery in email["deliveries"]:
            check_shape(delivery, DELIVERY)
        step(f"a message {subject} is {end}")
    assert [received.recipients for received in sink.messages] == [["good@remote.example"]], sink.messages
    assert b"DKIM-Signature" in sink.messages[0].content


def hear(hook, tenant, receiver):
    for kind, recipient in (("message.delivered", "good@remote.example"), ("message.bounced", "bad@remote.example")):
        heard = receiver.wait_for(kind, lambda _, event: event["type"] == kind)
        event = verify("the webhook", hook["secret"], heard)
        # `timestamp` is for Standard Webhooks, which uses this name for the time.
        check_shape(event, SHAPES["event"], ["timestamp"])
        assert (event["recipient"], event["tenant_id"]) == (recipient, tenant["id"]), event


def come_back(platform, admin, tenant):
    wanted = {"name": "test", "tenant_id": tenant["id"], "environment": "test", "scopes": ["emails:send", "emails:read"]}
    secret = platform.http(admin, "POST", "/v1/keys", wanted, 201)["secret"]
    message = mail(f"shop@{DOMAIN}", "late-bounce@remote.example")
    path = f"/v1/emails/{platform.http(secret, 'POST', '/v1/emails', message, 202)['id']}"
    until("the sandbox returns a bounce", lambda: platform.get(secret, path, ["deliveries"])["status"] == "bounced")
    [report] = platform.get(secret, f"/v1/reports?message_id={path.split('/')[-1]}")["data"]
    check_shape(report, SHAPES["report"])
    assert (report["kind"], report["effect"], report["status"]) == ("dsn", "bounced", "5.1.1"), report
    step("a bounce of the sandbox comes back after the delivery, with its report")


def refuse_foreign(platform, key):
    sender = f"shop@{FOREIGN}"
    error = platform.http(key["secret"], "POST", "/v1/emails", mail(sender, "good@remote.example"), 403)
    status, dialogue = platform.smtp(key, sender, "good@remote.example")
    assert status != 0 and f"< 550 5.7.1 [{error['code']}]" in dialogue, (error, dialogue)
    codes = [rejection["code"] for rejection in platform.get(key["secret"], "/v1/rejections")["data"]]
    assert codes == [error["code"]] * 2, codes
    step(f"a foreign sender is refused over both with {error['code']}")


def check_usage(platform, key, tenant):
    path = f"/v1/tenants/{tenant['id']}/usage"
    usage = platform.get(key["secret"], path)
    counts = {name: usage[f"emails_{name}"] for name in ("sent", "delivered", "bounced", "rejected")}
    assert counts == {"sent": 2, "delivered": 1, "bounced": 1, "rejected": 2}, usage
    series = platform.http(key["secret"], "GET", f"{path}/timeseries?interval=day")
    assert sum(day["emails_sent"] for day in series["data"]) == 2, series
    step(f"the usage of {usage['period']} is what was done")


def suspend_and_resume(platform, admin, key, tenant, sink):
    path = f"/v1/tenants/{tenant['id']}"
    email = mail(f"shop@{DOMAIN}", "again@remote.example")
    assert platform.http(admin, "PATCH", path, {"status": "suspended"})["status"] == "suspended"
    error = platform.http(key["secret"], "POST", "/v1/emails", email, 403)
    assert error["code"] == "tenant_suspended", error
    status, dialogue = platform.smtp(key, f"shop@{DOMAIN}", "again@remote.example")
    assert status != 0 and "< 535 5.7.8 [tenant_suspended]" in dialogue, dialogue
    step("a suspended tenant is refused with 403 and 535")
    assert platform.http(admin, "PATCH", path, {"status": "active"})["status"] == "active"
    platform.http(key["secret"], "POST", "/v1/emails", email, 202)
    until("mail leaves again", lambda: any("again@remote.example" in one.recipients for one in sink.messages))
    step("a resumed tenant sends again")


def remove(platform, admin, key, tenant, domain):
    path = f"/v1/tenants/{tenant['id']}"
    would = platform.http(admin, "DELETE", f"{path}?dry_run=true")
    check_shape(would, REMOVAL)
    counted = {name: would["counts"][name] for name in ("domains", "keys", "webhooks", "messages")}
    assert counted == {"domains": 1, "keys": 2, "webhooks": 1, "messages": 4} and not would["deleted"], would
    removed = platform.http(admin, "DELETE", path)
    check_shape(removed, REMOVAL)
    assert removed["deleted"], removed
    for gone in (path, f"/v1/domains/{domain['id']}", f"/v1/keys/{key['id']}"):
        assert platform.http(admin, "GET", gone, status=404)["code"] == "not_found"
    assert platform.http(key["secret"], "GET", "/v1/emails", status=401)["code"] == "invalid_api_key"
    for kind in ("emails", "webhooks", "domains"):
        # The platform also has a domain: the sandbox.
        owners = [one["tenant_id"] for one in platform.get(admin, f"/v1/{kind}")["data"]]
        assert tenant["id"] not in owners, kind
    step("a removed tenant leaves nothing behind")


def walk(server, names, sink):
    platform, admin, receiver = Platform(server), server.platform_secret, Receiver()
    tenant = create_tenant(platform, admin)
    domain = prove_domain(platform, admin, tenant, names)
    key = create_key(platform, admin, tenant, domain)
    hook = create_webhook(platform, admin, tenant, receiver)
    send(platform, key, sink)
    hear(hook, tenant, receiver)
    refuse_foreign(platform, key)
    come_back(platform, admin, tenant)
    check_usage(platform, key, tenant)
    suspend_and_resume(platform, admin, key, tenant, sink)
    remove(platform, admin, key, tenant, domain)


def main():
    sink = Sink(lambda address: "550 5.1.1 nobody" if address.startswith("bad@") else None)
    with tempfile.TemporaryDirectory(prefix="pillarbox-walkthrough-") as folder:
        remote = ["@ 1 IN MX 10 mx.remote.example.", "mx 1 IN A 127.0.0.1"]
        names = NameServer(f"{folder}/names", {DOMAIN: [], "remote.example": remote})
        extra = f"""name_servers = ["127.0.0.1:{names.port}"]
port = {sink.port}
[webhooks]
allowed_private_networks = ["127.0.0.0/8"]
plain_http_hosts = ["127.0.0.1"]
"""
        server = Server(f"{folder}/server", extra=extra)
        try:
            names.start()
            server.start()
            walk(server, names, sink)
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()
            names.stop()
            sink.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
