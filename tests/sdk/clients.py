"""Makes clients from the OpenAPI document of the real binary with the commands of src/docs/sdk.md, and runs them. See `run`."""

import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))
from server import REPOSITORY, Refused, Server  # noqa: E402

TOOLS = pathlib.Path(os.environ["SDK_DIR"])
PAGE = (REPOSITORY / "src/docs/sdk.md").read_text()
PAGE_URL = "http://127.0.0.1:8587"
GO_MODULE = "gopkg.in/validator.v2"
GO_VERSION = "1.19"
COMMAND_SECONDS = 300


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def command_of_page(start):
    """The only command of the page that begins like this."""
    [command] = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(start)]
    return command


def example_of_page(language, part):
    """The only example of the page in this language that has this part."""
    [example] = [block for block in blocks(language) if part in block]
    return example


class Receiver:
    """Counts the events that webhooks bring, by type."""

    def __init__(self):
        self.types = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                event = json.loads(self.rfile.read(int(self.headers["content-length"])))
                receiver.types.append(event["type"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Workshop:
    """A folder in which clients are made and run."""

    def __init__(self, folder, server):
        self.folder = pathlib.Path(folder)
        self.server = server
        self.receiver = Receiver()
        self.url = f"http://127.0.0.1:{server.api}"
        self.environment = {
            **os.environ,
            "PATH": f"{TOOLS}/venv/bin:{os.environ['PATH']}",
            "PILLARBOX_URL": self.url,
            "HOOK_URL": self.receiver.url,
            # Go has neither a proxy of modules nor another compiler here.
            "GOFLAGS": "-mod=mod",
            "GOPROXY": "off",
            "GOTOOLCHAIN": "local",
            "GOCACHE": str(TOOLS / "go-cache"),
            "GOPATH": str(TOOLS / "go"),
        }
        # The examples of the page send with this key.
        tenant = server.call("POST", "/v1/tenants", {"name": "Acme"})["id"]
        wanted = {"name": "acme.com", "tenant_id": tenant, "verification": "manual"}
        server.call("POST", "/v1/domains", wanted)
        wanted = {"name": "page", "tenant_id": tenant, "environment": "test", "scopes": ["emails:send"]}
        self.secret_of_page = server.call("POST", "/v1/keys", wanted)["secret"]

    def run(self, command, key=None):
        """Runs a shell command, which must succeed. Returns what it printed."""
        environment = {**self.environment, "PILLARBOX_KEY": key or self.server.platform_secret}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, shell=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        return done.stdout

    def generate(self, name, start):
        """Runs a command of the page that begins like this. Returns its warnings, each once, after the name of the client."""
        printed = self.run(command_of_page(start).replace(PAGE_URL, self.url))
        found = re.findall(r"^(?:\[main\] )?(?:WARN\w*|WARNING) .*$", printed, re.M)
        warnings = {re.sub(r"^\[main\] WARN +", "", line) for line in found}
        assert not re.search(r"\berrors? ?\(|\bERROR\b", printed), printed[-6000:]
        return {f"{name}: {line}" for line in warnings}

    def example(self, language, part, file):
        (self.folder / file).parent.mkdir(exist_ok=True)
        (self.folder / file).write_text(example_of_page(language, part).replace(PAGE_URL, self.url))

    def walk(self, name, run_example, run_walk):
        """Runs the example of the page, which prints the id of a message, and the walk, which leaves nothing behind."""
        printed = self.run(run_example, self.secret_of_page).split()
        assert printed and re.fullmatch(r"msg_\w{26}", printed[-1]), printed
        before = len(self.receiver.types)
        self.run(run_walk)
        heard = self.receiver.types[before:]
        assert heard == ["webhook.test"], heard
        slugs = [tenant["slug"] for tenant in self.server.call("GET", "/v1/tenants")["data"]]
        assert slugs == ["acme", "default"], slugs
        print(f"ok      {name}", flush=True)


def try_typescript(workshop):
    workshop.run(command_of_page("curl ").replace(PAGE_URL, workshop.url))
    for file in ("node_modules", "package.json"):
        os.symlink(TOOLS / "node" / file, workshop.folder / file)
    warnings = workshop.generate("TypeScript", "npx openapi-typescript")
    workshop.example("ts", "openapi-fetch", "send.mts")
    shutil.copy(HERE / "walk.ts", workshop.folder / "walk.mts")
    run_example = command_of_page("npx tsc ").replace("send.mts", "send.mts walk.mts")
    workshop.walk("openapi-typescript and openapi-fetch", run_example, "node walk.mjs")
    return warnings


def try_python(workshop):
    warnings = workshop.generate("Python", "openapi-python-client generate")
    workshop.example("python", "pillarbox_client", "example_client.py")
    shutil.copy(HERE / "walk_client.py", workshop.folder)
    workshop.walk("openapi-python-client", "python example_client.py", "python walk_client.py")
    return warnings


def try_generated_python(workshop):
    workshop.run("openapi-generator-cli validate -i pillarbox.json --recommend")
    warnings = workshop.generate("generated Python", "openapi-generator-cli generate -g python")
    folder = workshop.folder / "pillarbox-python"
    workshop.example("python", "pillarbox_sdk", "pillarbox-python/example.py")
    shutil.copy(HERE / "walk_generated.py", folder)
    run = "cd pillarbox-python && python"
    workshop.walk("openapi-generator for Python", f"{run} example.py", f"{run} walk_generated.py")
    return warnings


def try_go(workshop):
    warnings = workshop.generate("Go", "openapi-generator-cli generate -g go")
    client = workshop.folder / "pillarbox"
    use_debian_modules(client / "go.mod")
    workshop.run("cd pillarbox && go vet .")
    for name in ("example", "walk"):
        folder = workshop.folder / f"go-{name}"
        folder.mkdir()
        module = f"module {name}\n\nrequire github.com/acme/pillarbox v0.0.0\n\n"
        module += f"replace github.com/acme/pillarbox => {client}\n"
        (folder / "go.mod").write_text(module)
        use_debian_modules(folder / "go.mod")
    workshop.example("go", "package main", "go-example/main.go")
    shutil.copy(HERE / "walk.go", workshop.folder / "go-walk/main.go")
    workshop.walk("openapi-generator for Go", "cd go-example && go run .", "cd go-walk && go run .")
    return warnings


def use_debian_modules(file):
    """Takes the imported module from Debian's package, and the language of Debian's compiler."""
    source = TOOLS / "validator"
    if not source.exists():
        shutil.copytree(f"/usr/share/gocode/src/{GO_MODULE}", source)
        (source / "go.mod").write_text(f"module {GO_MODULE}\n\ngo {GO_VERSION}\n")
    text = re.sub(r"^go .*\n", "", file.read_text(), flags=re.M)
    file.write_text(f"{text}\ngo {GO_VERSION}\n\nreplace {GO_MODULE} => {source}\n")


def new_private_key():
    """A key in the place of the placeholder that the example of a key has."""
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def send_examples(server, document):
    """Sends the example of every request body. It may name what is not there or is there already, but it is a right body."""
    tenant = server.call("GET", "/v1/tenants?slug=acme")["data"][0]["id"]
    scopes = document["components"]["schemas"]["Scope"]["enum"]
    own = server.call("POST", "/v1/keys", {"name": "examples", "tenant_id": tenant, "scopes": scopes})
    [domain] = server.call("GET", f"/v1/domains?tenant_id={tenant}")["data"]
    source = {"name": "x", "subject": "{{ number }}", "text": "{{ name }}"}
    ids = {
        "domains": domain["id"],
        "keys": server.call("POST", "/v1/keys", {"name": "x", "tenant_id": tenant, "scopes": ["emails:send"]})["id"],
        "templates": server.call("POST", "/v1/templates", source, own["secret"])["id"],
        "webhooks": server.call("POST", "/v1/webhooks", {"url": "https://else.example"}, own["secret"])["id"],
    }
    sent = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" not in operation:
                continue
            target = path.replace("{tenant_id}", tenant).replace("{id}", ids.get(path.split("/")[2], "absent"))
            example = json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
            # A bundle brings a tenant of its own, and a digest of itself.
            body = json.loads(example if "sha256" in example else re.sub(r"\btnt_\w+", tenant, example))
            if "your own key" in body.get("private_key", ""):
                body["private_key"] = new_private_key()
            secret = server.platform_secret if operation["security"] == [{"key": ["platform"]}] else own["secret"]
            try:
                server.call(method.upper(), target, body, secret)
            except Refused as refused:
                assert re.match(r"\S+ \S+: (404|409) ", str(refused)), f"{refused}\nto the example {example}"
            sent += 1
    assert sent > 25, sent
    print(f"ok      the examples of {sent} request bodies", flush=True)


def compare(warnings):
    """The warnings must be exactly those that are known."""
    known = set((HERE / "warnings.txt").read_text().splitlines())
    new, gone = sorted(warnings - known), sorted(known - warnings)
    assert not new, "new warnings:\n" + "\n".join(new)
    assert not gone, "warnings.txt has what no generator says any more:\n" + "\n".join(gone)
    print(f"ok      {len(known)} known warnings, and no other", flush=True)


def main():
    # No name server answers, so that nothing leaves the machine.
    extra = 'name_servers = ["127.0.0.1:9"]\n'
    extra += '[webhooks]\nallowed_private_networks = ["127.0.0.0/8"]\nplain_http_hosts = ["127.0.0.1"]\n'
    with tempfile.TemporaryDirectory(prefix="pillarbox-sdk-") as folder:
        server = Server(f"{folder}/server", extra=extra)
        try:
            server.start()
            work = pathlib.Path(folder) / "work"
            work.mkdir()
            workshop, warnings = Workshop(work, server), set()
            for attempt in (try_typescript, try_python, try_generated_python, try_go):
                start = time.monotonic()
                warnings |= attempt(workshop)
                print(f"        {time.monotonic() - start:.0f} s", flush=True)
            send_examples(server, json.loads((work / "pillarbox.json").read_text()))
            compare(warnings)
        except BaseException:
            print(server.log_tail(), file=sys.stderr)
            raise
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
