"""Tests of aiosmtpd that Pillarbox does not pass, with the reasons. The names are regular expressions."""

WITHOUT_MEANING = [
    (r"TestProtocol::.*", "uses the protocol object in the process of the test"),
    (
        r"Test(SMTPAuth|AuthMechanisms|Authenticator|RequiredAuthentication|ResetCommands|AuthArgs)::.*",
        "sets up users, mechanisms and clear-text logins in the server of the suite; other clients test our logins",
    ),
    (
        r"Test(SMTPWithController|Customization|ClientCrash|StrictASCII|SleepingHandler|Timeout|Limits|Sanitize)::.*",
        "sets up and inspects limits, handlers and errors in the server of the suite",
    ),
]

ADDRESS = r"TestSMTP::test_(mail|rcpt)_valid_address"

DIVERGENCES = [
    (r"TestSMTP::test_ehlo", "we offer more extensions and use the configured host name"),
    (r"TestSMTP::test_help_bad_arg", "RFC 5321 §4.1.1.8: HELP has the same reply for every argument"),
    (r"TestSMTP::test_vrfy_not_address", "RFC 5321 §7.3: VRFY discloses nothing, not even whether an address is valid"),
    (
        r"TestSMTP::test_mail_smtp_errsyntax\[params_noesmtp\]",
        "RFC 5321 §2.2.1 forbids it to clients, but a server may accept a parameter that it understands",
    ),
    # RFC 5321 §4.1.2 has no comments and no white space. The suite uses the grammar of RFC 5322, which is for headers.
    (ADDRESS + r"\[.*\(comment\).*\]", "RFC 5321 §4.1.2: a path has no comments"),
    (ADDRESS + r"\[(Fred|Joe).*\]", "RFC 5321 §4.1.2: a backslash is allowed only within quotes"),
    (ADDRESS + r"\[(much|very).*\]", "RFC 5321 §4.1.2: a local part is quoted as a whole or not at all"),
    (ADDRESS + r"\[anne@127.0.0.1\]", "RFC 5321 §4.1.3: an IP address must be in brackets"),
    (ADDRESS + r"\[anne@\[IPv6::1\]\]", "RFC 5321 §4.1.3: this is the tag and `:1`, which is not an address"),
    (ADDRESS + r"\[(a{65}@example.com|b…)\]", "RFC 5321 §4.5.3.1.1: a local part has at most 64 octets"),
    (ADDRESS + r"\[c…\]", "RFC 5321 §4.1.1.3: only Postmaster may have no domain"),
    (ADDRESS + r"\[anne@mail\]", "RFC 5321 §2.3.5: a relay delivers to names that are fully qualified"),
    (
        r"TestSMTP::test_mail_valid_address\[anne@\[(127.0.0.1|IPv6:2001:db8::1)\]\]",
        "valid, but no tenant can have an IP address as a sending domain",
    ),
]
