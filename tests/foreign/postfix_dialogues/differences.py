"""Intended differences from Postfix: the command (a regular expression), our class of reply, that of Postfix, the reason.
A difference that no dialogue shows is an error too, so that the table stays correct."""

DIFFERENCES = [
    # Paths. Postfix corrects malformed paths where it can; we refuse them.
    (r"(MAIL FROM|RCPT TO):<@[a-z.]+>", "5", "2", "RFC 5321 §4.1.2: a source route without a mailbox is not a path"),
    (r"(MAIL FROM|RCPT TO):<bob @example.net>", "5", "2", "RFC 5321 §4.1.2: white space must be quoted"),
    (r"(MAIL FROM|RCPT TO):<bob@\[192.0.2.1>", "5", "2", "RFC 5321 §4.1.3: a literal ends with a bracket"),
    (r"RCPT TO:<bob@@example.net>", "5", "2", "RFC 5321 §4.1.2: an @ in the local part must be quoted"),
    (r"RCPT TO:<bob>", "5", "2", "RFC 5321 §4.1.1.3: only Postmaster may have no domain; Postfix adds its own"),
    (r"RCPT TO:<bob@localhost>", "5", "2", "RFC 5321 §2.3.5: a relay can only deliver to a fully-qualified name"),
    # Commands.
    (r"NOOP \\x01", "5", "2", "a control character is not allowed in a command (RFC 5321 §4.1.1.9: String)"),
    (r"QUIT now", "5", "2", "RFC 5321 §4.1.1.10: QUIT has no parameter, so one is refused as with RSET"),
    (r"MAILFROM:.*", "5", "2", "an unknown command gets 500; Postfix reads a word with a colon as a header and closes"),
    (
        r"MAIL FROM: ?(<(@relay.example:)?alice@acme.example>|alice@acme.example|<>)( BODY=8BITMIME| RET=HDRS ENVID=abc| SMTPUTF8)?",
        "2",
        "5",
        "Postfix still counts the SIZE of an earlier, refused MAIL; here each MAIL is checked by itself",
    ),
    # Content. RFC 6409 §8: a submission server may refuse content that it cannot correct; Postfix leaves it to milters.
    (r"content ' folded.*", "5", "2", "a first line with white space would continue a field that we prepend"),
    (r"content 'no header.*", "5", "2", "text without a valid header can be read in several ways"),
    (r"content '(\.|Subject: nobody).*", "5", "2", "without a From field there is no domain to sign for"),
    (r"content '.*a\\x00b.*", "5", "2", "RFC 5322 §2.2 and §2.3: a NUL is not text; Postfix passes it on"),
]
