"""Reads collected bounces with `pillarbox report parse` and compares the result with what their projects expect. See `run`."""

import ast
import collections
import json
import os
import pathlib
import re
import subprocess
import sys

# What sisimai's reasons are in our classes.
CLASSES = {
    "userunknown": {"recipient_unknown", "recipient_inactive"},
    "suspend": {"recipient_inactive", "recipient_unknown"},
    "hasmoved": {"recipient_unknown", "recipient_inactive"},
    "mailboxfull": {"mailbox_full"},
    "blocked": {"reputation", "policy"},
    "spamdetected": {"content", "reputation", "policy"},
}
# Reasons for which no address may be suppressed.
ALIVE = set(
    "mailboxfull policyviolation spamdetected blocked expired networkerror authfailure mesgtoobig exceedlimit vacation "
    "feedback requireptr badreputation speeding toomanyconn virusdetected securityerror".split()
)
# Files that changed their names after sisimai's expectations were written.
RENAMED = {
    "lhost-aol": "rhost-aol",
    "lhost-gsuite": "rhost-gsuite",
    "lhost-facebook": "rhost-facebook",
    "lhost-messagelabs": "rhost-messagelabs",
    "lhost-interscanmss": "lhost-trendmicro",
    "lhost-mailmarshalsmtp": "lhost-mailmarshal",
}
# No reports of mail servers to a reverse path: notices of Amazon SNS in JSON, and a person who forwards a bounce.
NO_REPORTS = {"lhost-amazonses-09", "lhost-amazonses-10", "lhost-amazonses-11", "lhost-sendmail-14"}
# Disagreements, each looked at: the reason stands only in a report within the report (postfix), several recipients in one
# text (v5sendmail), and a status that says "expired" (sendmail).
KNOWN = {"lhost-postfix-49", "lhost-postfix-50", "lhost-v5sendmail-05", "lhost-sendmail-21"}

failures = []


def check(what, right, total, bar):
    share = 100 * right / total
    print(f"  {what}: {right}/{total} ({share:.1f} %, at least {bar} %)")
    if share < bar:
        failures.append(what)


def read(files, *options):
    """What the binary says about each file, by its name without suffix."""
    output = subprocess.run(
        [os.environ["PILLARBOX"], "report", "parse", "--json", *options, *map(str, files)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    views = [json.loads(line) for line in output.splitlines()]
    return {pathlib.Path(view["file"]).stem: view for view in views}


def is_told(view):
    return view["kind"] in ("dsn", "prose") or view["rule"] == "delay"


def judge_flufl(root):
    print("flufl.bounce")
    tests = ast.parse((root / "tests/test_detectors.py").read_text())
    (table,) = (
        ast.literal_eval(node.value)
        for node in tests.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "DETECTORS"
    )
    expected = collections.defaultdict(set)
    for _, name, addresses, _ in table:
        expected[name.removesuffix(".txt")] |= {address.decode().lower() for address in addresses}
    # Mailman sent them on to its owners, so Return-Path is that of a list.
    views = read(sorted((root / "tests/data").glob("*.txt")), "--sender", "<>")
    bounces = {name: addresses for name, addresses in expected.items() if addresses}
    missed = [name for name in bounces if not is_told(views[name])]
    print("  not read:", " ".join(missed))
    check("told as DSN or prose", len(bounces) - len(missed), len(bounces), 95)
    statuses = {name: addresses for name, addresses in bounces.items() if views[name]["kind"] == "dsn"}
    # flufl prefers the original recipient, which proves nothing to us.
    wrong = [name for name, addresses in statuses.items() if not has_recipients(views[name], addresses)]
    print("  other recipients:", " ".join(wrong))
    check("recipients of DSNs", len(statuses) - len(wrong), len(statuses), 95)


def has_recipients(view, addresses):
    fields = ("recipient", "original_recipient")
    found = {(group[field] or "").lower() for group in view["groups"] for field in fields}
    return addresses <= found


def sisimai_expectations(root):
    expected = {}
    for file in sorted((root / "test/public").glob("*.rb")):
        text = file.read_text(encoding="utf-8")
        if "IsExpected" not in text:
            continue
        pieces = re.split(r"\n\s*'(\d+)'\s*=>\s*", text[text.index("IsExpected") :])
        for number, piece in zip(pieces[1::2], pieces[2::2]):
            rows = re.findall(r"\['([^']*)',\s*'([^']*)',\s*'([^']*)',\s*(?:true|false)", piece)
            for family in {file.stem, RENAMED.get(file.stem, file.stem)}:
                expected[f"{family}-{number}"] = rows
    return expected


def is_right_kind(family, reasons, view):
    if family == "arf" or reasons == {"feedback"}:
        return view["kind"] == "complaint"
    if family == "rfc3834" or reasons == {"vacation"}:
        return view["kind"] == "auto_reply"
    return is_told(view)


def group_of(row, groups):
    """The group that an expectation is about: with its status and code, else with one of both, else the first."""
    status, code, _ = row
    tests = (
        lambda group: (group["status"], str(group["code"])) == (status, code),
        lambda group: group["status"] == status,
        lambda group: str(group["code"]) == code,
    )
    for test in tests:
        for group in filter(test, groups):
            return group
    return groups[0] if groups else None


def judge_sisimai(corpora):
    expected = sisimai_expectations(corpora / "rb-sisimai")
    for folder in ("bsd", "dos", "mac"):
        print(f"sisimai, {folder}")
        views = read(sorted((corpora / "set-of-emails/maildir" / folder).glob("*.eml")))
        # A message without an expectation is right if it is read at all. The messages are newer than the expectations.
        known = sum(bool(expected.get(name)) for name in views)
        check("messages with an expectation", known, len(views), 93 if folder == "bsd" else 86)
        kinds, classes = collections.Counter(), collections.defaultdict(list)
        for name, view in views.items():
            family, rows = name.rpartition("-")[0], expected.get(name, [])
            right = is_right_kind(family, {row[2] for row in rows}, view)
            kinds[family, right] += 1
            groups = list(view["groups"])
            if name in NO_REPORTS or view["rule"] == "delay":
                continue
            if view["kind"] == "prose" and len(rows) > 1:
                # One class for several recipients: it is right for one of them at most, but none may be suppressed wrongly.
                if groups[0]["suppress"] and any(row[2] in ALIVE for row in rows):
                    failures.append(f"{name}: suppressed, although a recipient in it is alive")
                continue
            for row in rows:
                group = group_of(row, groups)
                if group and len(groups) > 1:
                    groups.remove(group)
                if group and group["suppress"] and row[2] in ALIVE:
                    failures.append(f"{name}: suppressed, although it is {row[2]}")
                if row[2] in CLASSES and name not in KNOWN:
                    classes[row[2]].append((name, group and group["bounce_class"] in CLASSES[row[2]]))
        families = sorted({family for family, _ in kinds})
        missed = [f"{family} {kinds[family, False]}" for family in families if kinds[family, False]]
        print("  kinds not right:", ", ".join(missed))
        for judged in (["arf", "rfc3464"], families):
            right = sum(kinds[family, True] for family in judged)
            total = right + sum(kinds[family, False] for family in judged)
            check("kind of arf and rfc3464" if len(judged) == 2 else "kind of all", right, total, 98)
        for reason, results in sorted(classes.items()):
            print(f"  {reason}, other class:", " ".join(name for name, right in results if not right))
            right = sum(bool(right) for _, right in results)
            # Two folders have one message of each family: too few for a share of 95 %.
            check(f"class of {reason}", right, len(results), 95 if folder == "bsd" else 80)
    views = read(sorted((corpora / "set-of-emails/maildir/not").glob("is-not-bounce-*.eml")))
    check("kind of what is no bounce", sum(not is_told(view) for view in views.values()), len(views), 100)


judge_flufl(pathlib.Path(sys.argv[1]))
if len(sys.argv) > 2:
    judge_sisimai(pathlib.Path(sys.argv[2]))
if failures:
    sys.exit("failed: " + "; ".join(failures))
