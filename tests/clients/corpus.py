"""The messages that every client sends: plain text, a UTF-8 subject, an attachment."""

import base64
import random

KINDS = ("text", "utf8", "attachment")


def message(client, kind, sender, recipient):
    """Returns the bytes of a message with CRLF line ends, and its Message-ID."""
    message_id = f"{client}-{kind}@{sender.split('@')[1]}"
    header = [
        f"From: Alice <{sender}>",
        f"To: {recipient}",
        f"Message-ID: <{message_id}>",
        "Date: Sun, 22 Nov 2026 02:00:00 +0000",
        "MIME-Version: 1.0",
    ]
    rest = {"text": text, "utf8": utf8, "attachment": attachment}[kind](client)
    lines = header + rest
    return "\r\n".join(lines).encode() + b"\r\n", message_id


def text(client):
    """A text with content that relays easily damage: dots, trailing spaces, blank lines at the end."""
    return [
        f"Subject: Text by {client}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "Hello,",
        ".",
        "..two dots",
        ".one dot",
        "trailing space ",
        "a\ttab",
        "x" * 900,
        "",
        " ",
        "The end",
        "",
    ]


def utf8(client):
    subject = base64.b64encode(f"Grüße – 你好 – {client}".encode()).decode()
    return [
        f"Subject: =?utf-8?B?{subject}?=",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        "Größe: 5 µm, 你好, 🙂",
    ]


def attachment(client):
    """An attachment larger than a body that the store keeps in the database."""
    octets = random.Random(client).randbytes(300_000)
    encoded = base64.encodebytes(octets).decode().splitlines()
    boundary = "=_boundary_1"
    return [
        f"Subject: Attachment by {client}",
        f'Content-Type: multipart/mixed; boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "See the attachment.",
        f"--{boundary}",
        "Content-Type: application/octet-stream",
        'Content-Disposition: attachment; filename="random.bin"',
        "Content-Transfer-Encoding: base64",
        "",
        *encoded,
        f"--{boundary}--",
    ]
