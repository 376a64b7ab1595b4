"""A TCP proxy in its own thread, which can cut a client off from its server or hold what they send."""

import asyncio
import contextlib
import threading

CHUNK = 1 << 16


class Proxy:
    """Passes connections on to a port of this machine."""

    def __init__(self, target):
        self.target = target
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self.listener = None
        self.writers = set()
        # Octets pass while it is set: those to the server, and those of its answers.
        self.requests, self.answers = asyncio.Event(), asyncio.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self._do(self._open())

    def drop(self):
        """Resets all connections, and refuses new ones."""
        self._do(self._drop())

    def stall(self, requests=True):
        """Holds the answers of the server, and with `requests` what the client sends. New connections are held, too."""
        self._do(self._stall(requests))

    def heal(self):
        """Passes on what was held, and accepts connections."""
        self._do(self._open())

    def stop(self):
        self._do(self._drop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        connections = asyncio.all_tasks(self.loop)
        for connection in connections:
            connection.cancel()
        self.loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))

    def _do(self, step):
        asyncio.run_coroutine_threadsafe(step, self.loop).result()

    async def _open(self):
        self.requests.set()
        self.answers.set()
        if self.listener is None:
            self.listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
            self.port = self.listener.sockets[0].getsockname()[1]

    async def _drop(self):
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for writer in self.writers:
            writer.transport.abort()

    async def _stall(self, requests):
        self.answers.clear()
        if requests:
            self.requests.clear()

    async def _serve(self, reader, writer):
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        if self.listener is None:
            # Cut off meanwhile, when this connection was in no set.
            writer.transport.abort()
            other_writer.transport.abort()
            return
        pair = {writer, other_writer}
        self.writers |= pair
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                pass_on(reader, other_writer, self.requests), pass_on(other_reader, writer, self.answers)
            )
        self.writers -= pair


async def pass_on(reader, writer, gate):
    """Passes octets on until their sender ends."""
    try:
        while octets := await reader.read(CHUNK):
            await gate.wait()
            writer.write(octets)
            await writer.drain()
    except OSError:
        pass
    await gate.wait()
    writer.close()
