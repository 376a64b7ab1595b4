"""An SMTP server that accepts all mail and keeps the exact bytes. It runs in its own thread."""

import asyncio
import dataclasses
import re
import threading


@dataclasses.dataclass
class Received:
    reverse_path: str
    recipients: list
    content: bytes


class Sink:
    """`answer_rcpt(address)` may return a reply other than 250. Messages go to `on_message`, else to a list."""

    def __init__(self, answer_rcpt=None, on_message=None):
        self.messages = []
        self.answer_rcpt = answer_rcpt or (lambda address: None)
        self.on_message = on_message or self.messages.append
        self.port = None
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    async def before_rcpt(self, reader):
        """A subclass may delay the answer to RCPT, or end the connection with an error."""

    def _run(self, ready):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26, backlog=512)
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()
        server.close()
        sessions = asyncio.all_tasks(self.loop)
        for session in sessions:
            session.cancel()
        self.loop.run_until_complete(asyncio.gather(*sessions, return_exceptions=True))

    async def _serve(self, reader, writer):
        try:
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _session(self, reader, writer):
        writer.write(b"220 sink.test ESMTP\r\n")
        sender, recipients = None, []
        while True:
            await writer.drain()
            line = await reader.readuntil(b"\r\n")
            verb = line[:4].upper()
            if verb == b"EHLO":
                words = [b"sink.test", b"PIPELINING", b"SIZE 100000000", b"8BITMIME", b"SMTPUTF8"]
                words.append(b"ENHANCEDSTATUSCODES")
                writer.write(b"".join(b"250-%s\r\n" % word for word in words[:-1]) + b"250 %s\r\n" % words[-1])
            elif verb == b"MAIL":
                sender, recipients = path(line), []
                writer.write(b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                address = path(line)
                await self.before_rcpt(reader)
                refusal = self.answer_rcpt(address)
                if refusal is None:
                    recipients.append(address)
                writer.write((refusal or "250 2.1.5 ok").encode() + b"\r\n")
            elif verb == b"DATA":
                if not recipients:
                    writer.write(b"554 5.5.1 no valid recipients\r\n")
                    continue
                writer.write(b"354 go\r\n")
                await writer.drain()
                content = await read_content(reader)
                self.on_message(Received(sender, recipients, content))
                sender, recipients = None, []
                writer.write(b"250 2.0.0 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                await writer.drain()
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")


def path(line):
    return re.search(rb"<([^>]*)>", line).group(1).decode()


async def read_content(reader):
    """Returns the message without dot-stuffing."""
    lines = []
    while True:
        line = await reader.readuntil(b"\r\n")
        # RFC 5321 §4.5.2: a line that consists of one dot ends the data.
        at_line_start = not lines or lines[-1].endswith(b"\r\n")
        if at_line_start and line == b".\r\n":
            return b"".join(lines)
        lines.append(line[1:] if at_line_start and line.startswith(b".") else line)
