"""Where aiosmtpd's own tests do not hold for Pillarbox, and why; names of tests as regular expressions."""

WITHOUT_MEANING = [
    (r"TestProtocol::.*", "speaks with the protocol object in the test's process"),
    (
        r"Test(SMTPAuth|AuthMechanisms|Authenticator|RequiredAuthentication|ResetCommands|AuthArgs)::.*",
        "sets up users, mechanisms and clear-text logins in the suite's own server; logins are held against other clients",
    ),
    (
        r"Test(SMTPWithController|Customization|ClientCrash|StrictASCII|SleepingHandler|Timeout|Limits|Sanitize)::.*",
        "sets up limits, handlers and errors in the suite's own server, and looks at those",
    ),
]

ADDRESS = r"TestSMTP::test_(mail|rcpt)_valid_address"

DIVERGENCES = [
    (r"TestSMTP::test_ehlo", "we offer more extensions, and name ourselves as configured"),
    (r"TestSMTP::test_help_bad_arg", "RFC 5321 §4.1.1.8: HELP answers the same whatever is asked"),
    (r"TestSMTP::test_vrfy_not_address", "RFC 5321 §7.3: VRFY discloses nothing, not even what is an address"),
    (
        r"TestSMTP::test_mail_smtp_errsyntax\[params_noesmtp\]",
        "RFC 5321 §2.2.1 forbids it to the client; who understands the parameter does no harm by taking it",
    ),
    # RFC 5321 §4.1.2 has no comments and no white space; RFC 5322, whose grammar the suite takes, is for headers.
    (ADDRESS + r"\[.*\(comment\).*\]", "RFC 5321 §4.1.2: a path has no comments"),
    (ADDRESS + r"\[(Fred|Joe).*\]", "RFC 5321 §4.1.2: a backslash stands only within quotes"),
    (ADDRESS + r"\[(much|very).*\]", "RFC 5321 §4.1.2: a local part is quoted as a whole or not at all"),
    (ADDRESS + r"\[anne@127.0.0.1\]", "RFC 5321 §4.1.3: an address stands in brackets"),
    (ADDRESS + r"\[anne@\[IPv6::1\]\]", "RFC 5321 §4.1.3: this is the tag and `:1`, which is no address"),
    (ADDRESS + r"\[(a{65}@example.com|b…)\]", "RFC 5321 §4.5.3.1.1: a local part has at most 64 octets"),
    (ADDRESS + r"\[c…\]", "RFC 5321 §4.1.1.3: only Postmaster goes without a domain"),
    (ADDRESS + r"\[anne@mail\]", "RFC 5321 §2.3.5: a relay delivers to names that are fully qualified"),
    (
        r"TestSMTP::test_mail_valid_address\[anne@\[(127.0.0.1|IPv6:2001:db8::1)\]\]",
        "well formed, but nobody can own an address as a domain to send from",
    ),
]
