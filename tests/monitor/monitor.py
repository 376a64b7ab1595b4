"""A real Prometheus scrapes a server on which everything happens that the metrics count, and has data for every expression of
the dashboard and of the rules. See `run`."""

import contextlib
import http.server
import json
import math
import pathlib
import re
import smtplib
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import yaml
from server import BINARY, PATIENCE_SECONDS, REPOSITORY, Server, free_ports
from sink import Sink

DOMAIN = "acme.example"
ALERTS = REPOSITORY / "config/alerts.yml"
CASES = REPOSITORY / "tests/monitor/alerts_test.yml"
DASHBOARD = REPOSITORY / "config/grafana.json"
# What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".+"}
SELECTOR = re.compile(r"\b(?:up|pillarbox_\w+)(?:\{[^}]*\})?")
# A status of a check that a server which works does not have.
STATUS = re.compile(r', status=~?"[^"]*"')
COMMAND = re.compile(r"`([^`]*)`")


def alerts():
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return [rule for rule in rules if "alert" in rule]


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions():
    """Each expression that must have data, with where it stands. Of an alert, which has none if all is well, its parts."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield f"panel {panel['title']}", expression
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield f"record {rule['record']}", rule["record"]
            for selector in SELECTOR.findall(rule["expr"]):
                yield f"rule {rule.get('alert', rule.get('record'))}", STATUS.sub("", selector)


def check_cases():
    """Every alert has a case in which it fires and one in which it does not."""
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    names = {alert["alert"] for alert in alerts()}
    assert fired == names, f"no case in which it fires: {names ^ fired}"
    assert quiet == names, f"no case in which it is quiet: {names ^ quiet}"
    page = (REPOSITORY / "src/docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| (Pillarbox\w+) \|", page, re.MULTILINE))
    assert documented == names, f"not in the page, or only there: {names ^ documented}"
    print(f"ok      {len(names)} alerts have a case in which they fire and one in which they do not")


def check_commands():
    """Every alert names a command to run, and the program knows the commands of alerts and panels."""
    texts = {alert["alert"]: alert["annotations"]["description"] for alert in alerts()}
    for name, text in texts.items():
        assert COMMAND.search(text), f"{name} names no command"
    texts |= {panel["title"]: panel["description"] for panel in panels()}
    commands = {command for text in texts.values() for command in COMMAND.findall(text)}
    ours = sorted(command for command in commands if command.startswith("pillarbox "))
    for command in ours:
        # An annotation may have the name of a check in it.
        words = re.sub(r"\{\{.*?\}\}", "x", command).split()[1:]
        known = subprocess.run([BINARY, *words, "--help"], capture_output=True, text=True)
        assert known.returncode == 0, f"{command}: {known.stderr}"
    foreign = [command.split()[0] for command in commands if command not in ours]
    assert set(foreign) <= {"systemctl", "journalctl"}, foreign
    print(f"ok      {len(ours)} commands of alerts and panels are commands of the program")


def check_dashboard():
    """Panels have what Grafana needs, and all metrics of the page are on one."""
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(ids)) == len(ids), "an id is there twice"
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources), panel["title"]
        assert panel["description"], panel["title"]
    page = (REPOSITORY / "src/docs/metrics.md").read_text()
    metrics = re.findall(r"^\| `(\w+)` \| (\w+)", page, re.MULTILINE)
    assert len(metrics) > 20, metrics
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    for name, kind in metrics:
        series = f"{name}_bucket" if kind == "histogram" else name
        assert re.search(rf"\b{series}\b", shown), f"{name} is on no panel"
    print(f"ok      {len(panels())} panels show all {len(metrics)} metrics of the page")


class Hook(http.server.BaseHTTPRequestHandler):
    """A webhook that takes everything."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Prometheus:
    """Prometheus on a loopback port, with our rules, that scrapes the server every second."""

    def __init__(self, folder, metrics_port):
        folder.mkdir()
        [self.port] = free_ports(1)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": "pillarbox", "static_configs": [{"targets": [f"127.0.0.1:{metrics_port}"]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read())["data"]

    def has_data(self, expression):
        """Whether there is a series with a value that is a number."""
        found = self.get("query", query=expression)["result"]
        return any(not math.isnan(float(series["value"][1])) for series in found)

    def scrapes(self):
        try:
            return self.has_data('up{job="pillarbox"} == 1')
        except OSError:
            return False


def wait_until(what, condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"timeout after {PATIENCE_SECONDS} s: waited until {what}")
        time.sleep(0.1)


def submit(server, account):
    """Mail that is delivered, bounces and waits, and all that a submission refuses."""
    context = ssl.create_default_context(cafile=server.ca_file)
    with smtplib.SMTP("localhost", server.submission, timeout=PATIENCE_SECONDS) as smtp:
        smtp.starttls(context=context)
        with contextlib.suppress(smtplib.SMTPAuthenticationError):
            smtp.login(account.user, "wrong")
        smtp.login(account.user, account.secret)
        for recipient in ("good", "bad", "slow"):
            text = f"From: app@{DOMAIN}\r\nSubject: x\r\n\r\nhello\r\n"
            smtp.sendmail(f"app@{DOMAIN}", [f"{recipient}@remote.example"], text)
        with contextlib.suppress(smtplib.SMTPSenderRefused):
            smtp.sendmail("app@foreign.example", ["good@remote.example"], text)


def report(port):
    """What other servers send: mail for postmaster, and a bounce to an address that this server never made."""
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_SECONDS) as smtp:
        with contextlib.suppress(smtplib.SMTPRecipientsRefused):
            smtp.sendmail("", ["stranger@relay.test"], "Subject: x\r\n\r\n")
        smtp.sendmail("someone@remote.example", ["postmaster@relay.test"], "Subject: hello\r\n\r\nhello\r\n")


def back_up(server):
    target = server.folder / "backup"
    subprocess.run([BINARY, "backup", "create", "--config", server.config, target], check=True, capture_output=True)


def check_live(folder):
    """Every expression has data once everything has happened."""
    replies = {"bad": "550 5.1.1 nobody", "slow": "452 4.2.2 mailbox full"}
    sink = Sink(lambda address: replies.get(address.split("@")[0]))
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    inbound, nowhere = free_ports(2)
    server = Server(
        folder / "server",
        sink.port,
        extra=f"""
name_servers = ["127.0.0.1:{nowhere}"]
[inbound]
listen = ["127.0.0.1:{inbound}"]
[webhooks]
allowed_private_networks = ["127.0.0.0/8"]
plain_http_hosts = ["127.0.0.1"]
""",
    )
    server.start()
    try:
        account = server.create_account(DOMAIN)
        url = f"http://127.0.0.1:{hook.server_port}/hook"
        server.call("POST", "/v1/webhooks", {"url": url, "tenant_id": account.tenant_id})
        with Prometheus(folder / "prometheus", server.metrics) as prometheus:
            # A rate needs a scrape from before.
            wait_until("Prometheus scrapes the server", prometheus.scrapes)
            submit(server, account)
            report(inbound)
            back_up(server)
            server.call("GET", "/v1/doctor?refresh=true")
            seen = 0
            for place, expression in expressions():
                wait_until(f"{place} has data: {expression}", lambda: prometheus.has_data(expression))
                seen += 1
            groups = prometheus.get("rules")["groups"]
            wrong = [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"]
            assert not wrong, wrong
            print(f"ok      Prometheus has data for {seen} expressions")
    except BaseException:
        print(server.log_tail(), file=sys.stderr)
        raise
    finally:
        server.stop()
        sink.stop()
        hook.shutdown()


def main():
    check_cases()
    check_commands()
    check_dashboard()
    with tempfile.TemporaryDirectory(prefix="pillarbox-monitor-") as folder:
        check_live(pathlib.Path(folder))


if __name__ == "__main__":
    main()
