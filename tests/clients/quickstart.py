"""Runs the commands that `pillarbox quickstart` prints; they must work as printed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from server import BINARY, PATIENCE_SECONDS, free_ports


def main():
    with tempfile.TemporaryDirectory(prefix="pillarbox-quickstart-") as folder:
        configure(pathlib.Path(folder))
        command = [BINARY, "quickstart", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        killer = threading.Timer(PATIENCE_SECONDS * 3, process.kill)
        killer.start()
        try:
            printed = read_until(process, "Ctrl-C stops it")
            recipes = split_recipes(printed)
            failures = [failure for name, script in recipes.items() if (failure := run(name, script))]
            failures += run_snippets(printed)
            failures += check_mail(printed)
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
            killer.cancel()
    if code != 0:
        failures.append(f"after Ctrl-C it exited with {code}")
    for failure in failures:
        print(f"FAILED  {failure}")
    print(f"{len(recipes)} recipes of quickstart, {len(failures)} failures")
    return 1 if failures or len(recipes) < 4 else 0


def configure(folder):
    """Writes the same configuration as quickstart, with free ports."""
    submission, submissions, api = free_ports(3)
    (folder / "pillarbox.toml").write_text(
        f'hostname = "localhost"\ndata_dir = "{folder}/data"\n[log]\nlevel = "warn"\n'
        f'[smtp]\nsubmission = ["127.0.0.1:{submission}"]\nsubmissions = ["127.0.0.1:{submissions}"]\n'
        f'[api]\nlisten = ["127.0.0.1:{api}"]\n[store]\nfree_disk_min = "1MiB"\n'
    )


def read_until(process, part):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if part in line:
            return "".join(lines)
    raise RuntimeError(f"quickstart ended: {''.join(lines)}")


def split_recipes(printed):
    """Returns the printed scripts by the comment above each."""
    start = printed.index("Paste one of these:")
    end = printed.index("The first message")
    parts = re.split(r"^# (.*)\n", printed[start:end], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def run(name, script):
    """Runs a script. Returns the failure, or None."""
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    print(f"{'ok' if done.returncode == 0 else 'FAILED':7} {name}")
    said = done.stdout + done.stderr
    if done.returncode != 0 or '"error"' in said:
        return f"{name}: {said[-2000:]}"
    return None


def run_snippets(printed):
    """Runs the settings of three clients that `key create --snippet` prints with a new secret. Returns the failures."""
    platform = re.search(r"pb_live_\w+", printed).group()
    api = re.search(r"API +(http://\S+)", printed).group(1)
    certificate = re.search(r"^ +certificate +(\S+)", printed, re.M).group(1)
    port = re.search(r"^ +submission +localhost:(\d+)", printed, re.M).group(1)
    sender = re.search(r"^ +sender +(\S+)", printed, re.M).group(1)
    trusted = {"CURL_CA_BUNDLE": certificate, "SSL_CERT_FILE": certificate}
    failures = []
    for client, interpreter in [("curl", "sh"), ("swaks", "sh"), ("python", "python3")]:
        create = [BINARY, "key", "create", "--name", client, "--tenant", "demo", "--environment", "test"]
        create += ["--scope", "smtp:send", "--snippet", client, "--smtp-server", f"localhost:{port}", "--from", sender]
        environment = os.environ | {"PILLARBOX_URL": api, "PILLARBOX_KEY": platform}
        made = subprocess.run(create, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        script = made.stdout.replace("Subject: Hello", f"Subject: Snippet {client}").replace('"Hello"', f'"Snippet {client}"')
        sent = subprocess.run(
            [interpreter, "-"], input=script, env=os.environ | trusted,
            capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        )
        is_sent = made.returncode == 0 and script and sent.returncode == 0
        print(f"{'ok' if is_sent else 'FAILED':7} snippet of {client}")
        if not is_sent:
            failures.append(f"snippet of {client}: {(made.stderr + sent.stdout + sent.stderr)[-2000:]}")
    return failures


def check_mail(printed):
    """Waits until the sandbox has delivered all messages and one has bounced. Returns the failures."""
    secret = re.search(r"pb_live_\w+", printed).group()
    api = re.search(r"API +(http://\S+)", printed).group(1)
    request = urllib.request.Request(f"{api}/v1/emails", headers={"Authorization": f"Bearer {secret}"})
    deadline = time.monotonic() + PATIENCE_SECONDS
    bounced = {"The second message"}
    wanted = {"The first message", "Hello from swaks", "Hello from curl", "Hello from Python"}
    wanted |= {f"Snippet {client}" for client in ("curl", "swaks", "python")}
    while True:
        with urllib.request.urlopen(request) as answer:
            emails = json.load(answer)["data"]
        delivered = {email["subject"] for email in emails if email["status"] == "delivered"}
        returned = {email["subject"] for email in emails if email["status"] == "bounced"}
        if wanted <= delivered and bounced <= returned:
            return []
        if time.monotonic() > deadline:
            return [f"not delivered: {wanted - delivered}, not returned: {bounced - returned}"]
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
