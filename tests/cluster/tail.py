"""The live tail of events at a node, which continues after each fault where it was."""

import http.client
import json
import threading

from nodes import wait_until

# The stream has a line each 15 seconds.
SILENCE_SECONDS = 20
RETRY_SECONDS = 0.2


class Tail(threading.Thread):
    """`events` gets the ids of all events after a position, in the order of the stream."""

    def __init__(self, node, position=None):
        super().__init__(daemon=True)
        self.node, self.position = node, position
        self.events, self.reconnected = [], -1
        self.stopped = threading.Event()
        self.start()
        if position is None:
            wait_until(lambda: self.position, "the live tail does not begin")

    def stop(self):
        self.stopped.set()

    def run(self):
        while not self.stopped.is_set():
            try:
                self._follow()
            except (OSError, http.client.HTTPException):
                pass
            self.stopped.wait(RETRY_SECONDS)

    def _follow(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.node.api, timeout=SILENCE_SECONDS)
        headers = {"Authorization": f"Bearer {self.node.platform_secret}", "Accept": "text/event-stream"}
        if self.position is not None:
            headers["Last-Event-ID"] = self.position
        connection.request("GET", "/v1/events", headers=headers)
        with connection.getresponse() as answer:
            if answer.status != 200:
                return
            self.reconnected += 1
            fields = {}
            while not self.stopped.is_set() and (line := answer.readline()):
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                elif fields:
                    self._note(fields)
                    fields = {}

    def _note(self, fields):
        if "data" in fields:
            self.events.append(json.loads(fields["data"])["id"])
        self.position = fields.get("id", self.position)


class TailPair:
    """Tails at two nodes, from one position. Nothing is submitted when they begin, nor when they end."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.before = self._ids()
        one = Tail(cluster.nodes[0])
        self.tails = [one, Tail(cluster.nodes[-1], one.position)]

    def _ids(self):
        return set(self.cluster.database.query("SELECT id FROM event"))

    def check(self):
        """Requires that both get all events, once, in the same order."""
        try:
            wait_until(self._agree, "not the same events in the same order")
        finally:
            for tail in self.tails:
                tail.stop()
            print(f"live tails have {self._text()}", flush=True)

    def _seen(self):
        return [[event for event in list(tail.events) if event not in self.before] for tail in self.tails]

    def _agree(self):
        all_, (one, other) = self._ids() - self.before, self._seen()
        return one == other and len(one) == len(all_) and set(one) == all_

    def _text(self):
        one, other = self._seen()
        reconnected = " and ".join(str(tail.reconnected) for tail in self.tails)
        return f"{len(one)} and {len(other)} of {len(self._ids() - self.before)} events, reconnected {reconnected} times"
