"""schemathesis tests the real binary against its OpenAPI document, with a platform key and with a tenant key, on existing
objects: no response may be a server error or violate its schema. See `run`."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients"))
from server import PATIENCE_SECONDS, Refused, Server  # noqa: E402

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = "8"
SEED = "1"
SCOPES = [
    "smtp:send", "emails:send", "emails:read", "domains:manage", "keys:manage", "webhooks:manage",
    "suppressions:manage", "templates:manage", "usage:read", "tenant:manage", "audit:read",
]  # fmt: skip


class Objects:
    """Creates a tenant with one object of each kind, or uses those of an existing one."""

    def __init__(self, server, domain, tenant=None):
        self.tenant = tenant or server.call("POST", "/v1/tenants", {"name": domain})["id"]
        self.secret = self.make_key(server, "caller")["secret"]
        wanted = {"name": domain, "tenant_id": self.tenant, "verification": "manual"}
        self.domain = server.call("POST", "/v1/domains", wanted)["id"]

        def make(path, body):
            return server.call("POST", path, body, self.secret)["id"]

        self.key = self.make_key(server, "victim")["id"]
        self.suppression = make("/v1/suppressions", {"address": "a@else.example"})
        self.template = make("/v1/templates", {"name": domain, "subject": "s", "text": "{{ name }}"})
        self.webhook = make("/v1/webhooks", {"url": "https://else.example/hook"})
        self.delivery = make(f"/v1/webhooks/{self.webhook}/test", {})
        self.inbox = make("/v1/inboxes", {"address": f"trial@{domain}"})
        letter = {"from": f"a@{domain}", "to": ["b@else.example"], "subject": "s", "text": "t", "tags": ["x"]}
        self.email = make("/v1/emails", letter)
        try:
            make("/v1/emails", {**letter, "from": "a@foreign.example"})
        except Refused:
            pass  # makes a rejection to list
        self.report = self.make_report(server, letter)
        self.change = server.call("GET", f"/v1/audit?tenant_id={self.tenant}&limit=1")["data"][0]["id"]

    def make_key(self, server, name):
        return server.call("POST", "/v1/keys", {"name": name, "tenant_id": self.tenant, "scopes": SCOPES})

    def make_report(self, server, letter):
        """Sends to an address of the sandbox that returns a bounce. Returns the id of the report."""
        scopes = ["emails:send", "emails:read"]
        wanted = {"name": "tester", "tenant_id": self.tenant, "environment": "test", "scopes": scopes}
        tester = server.call("POST", "/v1/keys", wanted)["secret"]
        # This status suppresses nobody: both sets of objects may have one tenant.
        letter = {**letter, "to": ["late-bounce+5.2.2@else.example"]}
        email = server.call("POST", "/v1/emails", letter, tester)["id"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            reports = server.call("GET", f"/v1/reports?message_id={email}", secret=tester)["data"]
            if reports:
                return reports[0]["id"]
            if time.monotonic() > deadline:
                raise RuntimeError("the sandbox returned no bounce")
            time.sleep(0.05)

    def id_in(self, path):
        """The value of `{id}` in a path."""
        kind = path.split("/")[2]
        if "deliveries/{id}" in path:
            return self.delivery
        ids = {
            "domains": self.domain, "keys": self.key, "api-keys": self.key, "suppressions": self.suppression,
            "templates": self.template, "webhooks": self.webhook, "emails": self.email, "reports": self.report,
            "audit": self.change, "inboxes": self.inbox, "destinations": "else.example",
            "recipients": "nobody@else.example",
        }  # fmt: skip
        return ids.get(kind)

    def configuration(self, document, doomed):
        """Gives each operation ids of existing objects; a DELETE gets those of `doomed`."""
        lines = []
        for path, methods in document["paths"].items():
            for method in methods:
                of = doomed if method == "delete" and "keys" not in path else self
                parameters = {"path.id": of.id_in(path)} if "{id}" in path else {}
                if "{tenant_id}" in path:
                    parameters["path.tenant_id"] = of.tenant
                parameters = {name: value for name, value in parameters.items() if value}
                if parameters:
                    inside = ", ".join(f"{json.dumps(name)} = {json.dumps(v)}" for name, v in parameters.items())
                    lines += ["[[operations]]", f'include-name = "{method.upper()} {path}"', f"parameters = {{ {inside} }}"]
        return "\n".join(lines) + "\n"


def judge(server, document, folder, secret, objects, doomed):
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(objects.configuration(document, doomed))
    command = [
        pathlib.Path(sys.executable).with_name("schemathesis"), "run", f"http://127.0.0.1:{server.api}/openapi.json",
        "--header", f"Authorization: Bearer {secret}", "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED,
        "--phases", "examples,coverage,fuzzing", "--generation-database", "none", "--no-shrink",
        "--request-timeout", "30", "--continue-on-failure", "--warnings", "off", "--no-color",
        "--report", "har", "--report-har-path", folder / "asked.har",
    ]  # fmt: skip
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ran.returncode != 0:
        raise SystemExit(f"{ran.stdout}\n{ran.stderr}\n{server.log_tail()}")
    told = next(line.strip() for line in ran.stdout.splitlines() if "generated" in line)
    return told, operations_done(document, json.loads((folder / "asked.har").read_text()))


def operations_done(document, asked):
    """The operations that succeeded at least once."""
    patterns = {path: re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$") for path in document["paths"]}
    done = set()
    for entry in asked["log"]["entries"]:
        if entry["response"]["status"] < 300:
            asked_path, method = urllib.parse.urlsplit(entry["request"]["url"]).path, entry["request"]["method"]
            # Paths without braces come first: /v1/webhooks/endpoints is not the id of a webhook.
            paths = sorted((path for path in patterns if patterns[path].match(asked_path)), key=lambda p: "{" in p)
            done.update(f"{method} {path}" for path in paths[:1])
    return done


def is_open_to(is_platform, operation):
    """Whether the operation needs a key and accepts this one."""
    needed = operation["security"]
    return needed and (is_platform or needed != [{"key": ["platform"]}])


def check(name, server, document, folder):
    is_platform = name == "platform"
    objects = Objects(server, f"{name}.example")
    doomed = Objects(server, f"doomed-{name}.example", None if is_platform else objects.tenant)
    secret = server.platform_secret if is_platform else objects.secret
    told, done = judge(server, document, folder / name, secret, objects, doomed)
    # No request may have locked the caller out, because all later responses would then be the same.
    server.call("GET", "/v1/events", secret=secret)
    all_ = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if is_open_to(is_platform, operation)
    }
    never = sorted(one for one in all_ - done if one.startswith("GET"))
    if never:
        raise SystemExit(f"nothing was ever read with a {name} key from {never}")
    print(f"ok      {name} key: {told}; {len(done & all_)} of {len(all_)} operations were done", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        server = Server(folder / "pillarbox")
        # No request may be refused because of a limit.
        limits = "[api]\nrequests_per_minute = 0\nkey_requests_per_minute = 0\n"
        server.config.write_text(server.config.read_text().replace("[api]\n", limits, 1))
        server.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.api}/openapi.json") as answer:
                document = json.load(answer)
            with ThreadPoolExecutor() as turns:
                names = ("platform", "tenant")
                list(turns.map(lambda name: check(name, server, document, folder), names))
        finally:
            server.stop()


main()
