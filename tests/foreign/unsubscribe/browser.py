"""A browser, driven with the WebDriver protocol."""

import base64
import json
import subprocess
import time
import urllib.request

from server import PATIENCE_SECONDS, free_ports

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """Chromium without a window. `dark` is what the page is told of the wishes of its reader."""

    def __init__(self, width=390, height=844, dark=False):
        (self.port,) = free_ports(1)
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": arguments}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        try:
            self.wait_for_driver()
            made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{made['sessionId']}"
            scheme = {"media": "", "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
            self.devtools("Emulation.setEmulatedMedia", scheme)
            size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
            self.devtools("Emulation.setDeviceMetricsOverride", size)
        except BaseException:
            self.driver.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE_SECONDS)

    def wait_for_driver(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if self.call("GET", "/status")["ready"]:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("chromedriver does not start")
            time.sleep(0.05)

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{self.session}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)["value"]

    def devtools(self, command, parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def text(self):
        return self.run("return document.body.innerText")

    def wait_for(self, text):
        """A press returns before the next page is there."""
        deadline = time.monotonic() + 10
        while text not in self.text():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def run(self, script):
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, selector):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/click", {})

    def messages(self):
        """What the browser complained about, like a style that the policy of the page forbids."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, file):
        file.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))
