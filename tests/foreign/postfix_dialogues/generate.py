"""Generates dialogues from a seed: valid and invalid sequences of commands."""

import random

SENDER = "alice@acme.example"
FROM = b"From: <alice@acme.example>\r\n"

PATHS = [
    "<bob@example.net>",
    "<carol@example.net>",
    "<BOB@EXAMPLE.NET>",
    "<a.b+c=d_e@example.net>",
    '<"a b"@example.net>',
    '<"a\\"b"@example.net>',
    '<"a>b"@example.net>',
    "<@relay.example:bob@example.net>",
    "<@relay.example,@other.example:bob@example.net>",
    "<bob@[192.0.2.1]>",
    "<bob@[IPv6:2001:db8::1]>",
    "<bob@xn--bcher-kva.example>",
    "bob@example.net",
    " <bob@example.net>",
    "<Postmaster>",
    "<" + "a" * 64 + "@example.net>",
]

FAULTY_PATHS = [
    "",
    "<",
    "<bob@example.net",
    "<bob@>",
    "<@example.net>",
    "<bob@@example.net>",
    "<bob example.net>",
    "<bob@example.net>x",
    "<bob@-example.net>",
    "<bob@example..net>",
    "<bob@.example.net>",
    "<bob@[300.0.2.1]>",
    "<bob@[192.0.2.1>",
    "<bob@1.2.3.4>",
    "<bob@localhost>",
    '<"bob@example.net>',
    "<bob @example.net>",
    "<@relay.example>",
    "<bob>",
]

FAULTY_SENDERS = [path for path in FAULTY_PATHS if path not in ("<bob@localhost>", "<bob>")]

MAIL_PARAMETERS = [
    "",
    " SIZE=100",
    " BODY=8BITMIME",
    " BODY=7BIT SIZE=2000",
    " SMTPUTF8",
    " RET=HDRS ENVID=abc",
    " SIZE=99999999",
    " SIZE=abc",
    " SIZE=",
    " BODY=9BIT",
    " FOO=BAR",
    " SIZE",
    " RET=NONE",
]

RCPT_PARAMETERS = [
    "",
    " NOTIFY=NEVER",
    " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@example.net",
    " NOTIFY=NEVER,SUCCESS",
    " NOTIFY=SOMETIMES",
    " FOO=BAR",
    " ORCPT=bob",
]

OTHERS = [
    "NOOP",
    "NOOP text",
    "noop",
    "RSET",
    "RSET now",
    "VRFY bob@example.net",
    "VRFY",
    "EHLO client.example",
    "EHLO [192.0.2.1]",
    "EHLO",
    "HELO client.example",
    "HELO",
    "XYZZY",
    "",
    "EXPN list",
    "MAIL",
    "RCPT",
    "DATA now",
    "QUIT",
    "QUIT now",
    "TURN",
    "STARTTLSX",
    "NOOP \x01",
    "MAILFROM:<alice@acme.example>",
    "MAIL FROM <alice@acme.example>",
    "MAIL TO:<alice@acme.example>",
    "RCPT FROM:<bob@example.net>",
    "NOOP " + "x" * 400,
]

CONTENTS = [
    FROM + b"\r\ntext\r\n.\r\n",
    FROM + b".\r\n",
    FROM + b"\r\n..\r\n...\r\n..x\r\n.\r\n",
    FROM + b"\r\na\n.\nNOOP\nb\r\n.\r\n",
    FROM + b"\r\na\r\n.\nNOOP\r\n.\r\n",
    FROM + b"\r\na\n.\r\nNOOP\r\n.\r\n",
    FROM + b"\r\na\r.\r\nNOOP\r\n.\r\n",
    FROM + b"\r\na\r\n.\r\r\nNOOP\r\n.\r\n",
    FROM + b"\r\na\r.\rNOOP\r\n.\r\n",
    FROM + b"\r\na\r\n. \r\nNOOP\r\n.\r\n",
    FROM + b"\r\ncaf\xe9 \xc3\xa9\r\n.\r\n",
    FROM + b"Subject: \xc3\xa9\r\n\r\nx\r\n.\r\n",
    FROM + b"\r\n" + b"x" * 998 + b"\r\n.\r\n",
    FROM + b"\r\n" + b"x" * 5000 + b"\r\n.\r\n",
    FROM + b"X: y\r\n" * 500 + b"\r\nx\r\n.\r\n",
    FROM + b"\r\n" + b"0123456789\r\n" * 12000 + b"NOOP\r\nQUIT\r\n.\r\n",
    FROM + b"\r\nQUIT\r\nRSET\r\nMAIL FROM:<>\r\n.\r\n",
    FROM + b"\r\na\0b\r\n.\r\n",
    b".\r\n",
    b"Subject: nobody\r\n\r\nx\r\n.\r\n",
    b"no header\r\n.\r\n",
    b" folded\r\n" + FROM + b"\r\nx\r\n.\r\n",
]


class Command:
    """A line without its CRLF. DATA has the content that is sent after 354."""

    def __init__(self, line, content=None):
        self.line = line
        self.content = content

    def __str__(self):
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.line)
        return text if len(text) < 120 else f"{text[:100]}… ({len(text)} characters)"


def mail(chance, is_valid):
    if is_valid:
        sender = chance.choice([f"<{SENDER}>"] * 4 + ["<>", SENDER, f" <{SENDER}>", f"<@relay.example:{SENDER}>"])
        return Command(f"MAIL FROM:{sender}{chance.choice(MAIL_PARAMETERS[:6])}")
    if chance.random() < 0.5:
        return Command(f"MAIL FROM:{chance.choice(FAULTY_SENDERS)}")
    return Command(f"MAIL FROM:<{SENDER}>{chance.choice(MAIL_PARAMETERS)}")


def rcpt(chance, is_valid):
    if is_valid:
        return Command(f"RCPT TO:{chance.choice(PATHS)}{chance.choice(RCPT_PARAMETERS[:3] + [''] * 5)}")
    if chance.random() < 0.5:
        return Command(f"RCPT TO:{chance.choice(FAULTY_PATHS)}")
    return Command(f"RCPT TO:<bob@example.net>{chance.choice(RCPT_PARAMETERS)}")


def data(chance):
    return Command(chance.choice(["DATA", "DATA", "data"]), chance.choice(CONTENTS))


def transaction(chance):
    """A valid transaction with random faults."""
    commands = [mail(chance, chance.random() < 0.85)]
    commands += [rcpt(chance, chance.random() < 0.7) for _ in range(chance.randint(0, 4))]
    commands.append(data(chance))
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        commands.insert(chance.randrange(len(commands) + 1), Command(chance.choice(OTHERS)))
    return commands


def group(chance, commands):
    """RFC 2920 §3.1: splits commands into groups for one segment. DATA, and commands that may close or restart, end a group."""
    groups = [[]]
    for command in commands:
        groups[-1].append(command)
        if command.content or chance.random() < 0.5 or command.line[:4].upper() in ("EHLO", "HELO", "QUIT", "NOOP"):
            groups.append([])
    return [group for group in groups if group]


def dialogues(count, seed):
    """Yields whether the dialogue logs in first, and its groups of commands."""
    chance = random.Random(seed)
    for number in range(count):
        if number % 5 == 0:
            without_login = [line for line in OTHERS if not line.startswith("MAIL FROM")]
            commands = [Command(chance.choice(without_login)) for _ in range(chance.randint(3, 9))]
            yield False, group(chance, commands)
        else:
            commands = [c for _ in range(chance.randint(1, 3)) for c in transaction(chance)]
            yield True, group(chance, commands)
