"""Where we differ from Postfix on purpose: the command (a regular expression), our class of reply, Postfix's, and why.
A difference that no dialogue shows any more is an error as well, so that the table stays true."""

DIFFERENCES = [
    # Paths. Postfix mends what it can read in some way; we hold mailboxes by their meaning and refuse what has none.
    (r"(MAIL FROM|RCPT TO):<@[a-z.]+>", "5", "2", "RFC 5321 §4.1.2: a source route without a mailbox is no path"),
    (r"(MAIL FROM|RCPT TO):<bob @example.net>", "5", "2", "RFC 5321 §4.1.2: white space must be quoted"),
    (r"(MAIL FROM|RCPT TO):<bob@\[192.0.2.1>", "5", "2", "RFC 5321 §4.1.3: a literal ends with a bracket"),
    (r"RCPT TO:<bob@@example.net>", "5", "2", "RFC 5321 §4.1.2: an @ in the local part must be quoted"),
    (r"RCPT TO:<bob>", "5", "2", "RFC 5321 §4.1.1.3: Postmaster alone goes without a domain; Postfix adds its own"),
    (r"RCPT TO:<bob@localhost>", "5", "2", "RFC 5321 §2.3.5: a relay can only deliver to a fully-qualified name"),
    # Commands.
    (r"NOOP \\x01", "5", "2", "a control character has no place in a command (RFC 5321 §4.1.1.9: String)"),
    (r"QUIT now", "5", "2", "RFC 5321 §4.1.1.10: QUIT has no parameter; like RSET it says so"),
    (r"MAILFROM:.*", "5", "2", "an unknown command is 500; Postfix takes a word with a colon for a header and closes"),
    (
        r"MAIL FROM: ?(<(@relay.example:)?alice@acme.example>|alice@acme.example|<>)( BODY=8BITMIME| RET=HDRS ENVID=abc| SMTPUTF8)?",
        "2",
        "5",
        "Postfix holds the SIZE of an earlier, refused MAIL against this one; here each MAIL speaks for itself",
    ),
    # Content. RFC 6409 §8: a submission server may refuse what it cannot make good; Postfix leaves it to milters.
    (r"content ' folded.*", "5", "2", "a first line of white space would continue a field that we put in front"),
    (r"content 'no header.*", "5", "2", "a header that is none has several readings"),
    (r"content '(\.|Subject: nobody).*", "5", "2", "without a From field there is no domain whose key could sign"),
    (r"content '.*a\\x00b.*", "5", "2", "RFC 5322 §2.2 and §2.3: a NUL is not text; Postfix passes it on"),
]
