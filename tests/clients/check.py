"""Checks a message that Pillarbox relayed."""

import re

OURS = {"dkim-signature", "received", "date", "message-id"}


class Wrong(Exception):
    """The received message is wrong."""


def check(content, submitted, dkim_records):
    """The message must consist of our header fields and the exact submitted bytes; every DKIM signature must verify."""
    # Imported here, because tests that use only other checks run without this package.
    import dkim

    if not content.endswith(submitted):
        raise Wrong(f"the submitted bytes are not at its end: {difference(content, submitted)}")
    fields = split_fields(content[: len(content) - len(submitted)])
    strange = [name for name, _ in fields if name.lower() not in OURS]
    if strange:
        raise Wrong(f"fields that are not ours: {strange}")
    signatures = sum(name.lower() == "dkim-signature" for name, _ in fields)
    if not signatures:
        raise Wrong("no DKIM signature")
    for index in range(signatures):
        try:
            holds = dkim.DKIM(content).verify(index, lambda name, timeout=5: lookup(name, dkim_records))
        except dkim.DKIMException as error:
            raise Wrong(f"DKIM signature {index + 1} of {signatures}: {error}") from None
        if not holds:
            raise Wrong(f"DKIM signature {index + 1} of {signatures} does not verify")


def lookup(name, records):
    name = (name.decode() if isinstance(name, bytes) else name).rstrip(".")
    return records[name].encode() if name in records else None


def split_fields(block):
    if block and not block.endswith(b"\r\n"):
        raise Wrong(f"the text above the message has no CRLF at its end: {block[-80:]!r}")
    fields = re.findall(rb"([!-9;-~]+):((?:[^\r\n]|\r\n[ \t])*)\r\n", block)
    if sum(len(name) + len(value) + 3 for name, value in fields) != len(block):
        raise Wrong(f"the text above the message is not only header fields: {block!r}")
    return [(name.decode(), value) for name, value in fields]


def difference(content, submitted):
    """Describes the last difference between the received and the submitted bytes."""
    length = min(len(content), len(submitted))
    for back in range(1, length + 1):
        if content[-back] != submitted[-back]:
            got, sent = content[-back - 30 : len(content) - back + 31], submitted[-back - 30 : len(submitted) - back + 31]
            return f"got …{got!r}…, sent …{sent!r}…"
    return f"{len(content)} octets received, {len(submitted)} sent"
