"""Servers without one kind of sync: each must be found out by some cut."""

import dataclasses

import cuts
from disk import Disk, File

LOG_HEADER_OCTETS = 32
# Nothing is lost without these, for a reason; by the end of the name of the place.
REDUNDANT = {
    "header of an empty write-ahead log": "without the header no frame is valid, and the sync of the commit covers both",
    "rollback journal of a new database": "it protects one page without rows, before anything is promised",
    "write test": "nothing depends on the file: the sync shows whether the disk writes",
    "work directory": "the sync of everything follows; this one spreads the work",
    "backup: directory of the data directory": "the sync of everything follows, and covers names",
    "restore into a directory: directory of the data directory": "the directory was there before",
    "note of the last backup": "it is the age of a metric and no promise",
}
# Cuts between a sync that is left out and the next one of the same file; the others are anywhere.
TARGETED_PART = 0.7
SOON_CALLS = 10
# Some losses need a rare order of writes: rounds of cuts until one is found.
ROUNDS_MAX = 10


@dataclasses.dataclass
class Sync:
    """A sync of the record. `pending` is the number of changes that it made durable."""

    at: int
    path: str
    pending: int
    is_log_header: bool
    is_used_again: bool  # the log has frames of an earlier round
    call: object


def place_of(record, sync):
    name = sync.path.rpartition("/")[2]
    if sync.is_log_header:
        return "header of a write-ahead log that is used again" if sync.is_used_again else "header of an empty write-ahead log"
    if name.endswith(".db-wal"):
        return "write-ahead log"
    if name.endswith(".db-journal"):
        return "rollback journal of a new database"
    if name.endswith(".db"):
        return "database"
    if name.endswith("-master.key"):
        return "master key"
    if name.endswith(".eml"):
        return "file of a body"
    if sync.path == "":
        return "directory of the data directory"
    if name == "data":
        return "data directory"
    if name == "bodies":
        return "directory of the directories of bodies"
    if sync.path.startswith("data/bodies/"):
        return "directory of bodies" if "." not in name else "write test"
    return f"other: {name}"


def find_syncs(record):
    found = []

    def note(file, at):
        pending = disk.waiting(file)
        is_log = isinstance(file, File) and file.path.endswith("-wal")
        is_header = is_log and {change.offset for change in file.pending} == {0}
        is_used_again = is_header and len(file.durable) > LOG_HEADER_OCTETS
        found.append(Sync(at, file.path, pending, is_header, is_used_again, record.calls[at]))
        return False

    disk = Disk(record.folder, note, record.existing)
    disk.advance(record.calls, len(record.calls))
    return found


class Outcomes:
    """What was found of each kind of sync, in all loads."""

    def __init__(self):
        self.dropped = {}
        self.cuts = {}
        self.found = {}

    def report(self):
        """Prints all kinds. Returns the number of those that no cut has found, though something should depend on them."""
        missed = 0
        for place, count in sorted(self.dropped.items()):
            found = self.found.get(place) or reason_of(place)
            missed += found is None
            print(f"without the {count} syncs of the {place}: {found or 'NOT FOUND'} ({self.cuts[place]} cuts)")
        return missed


def run(record, count, chance, outcomes, check, place_of=place_of, choose=cuts.choose):
    """Leaves out the syncs of each place, which is None for those that stay."""
    syncs = find_syncs(record)
    places = {}
    for sync in syncs:
        places.setdefault(place_of(record, sync), []).append(sync)
    places.pop(None, None)
    idle = sum(sync.pending == 0 for sync in syncs)
    print(f"{record.name}: {idle} of {len(syncs)} syncs had nothing to write, and are left out with those of their kind")
    for place, dropped in sorted(places.items()):
        outcomes.dropped[place] = outcomes.dropped.get(place, 0) + len(dropped)
        if place in outcomes.found:
            continue
        at_risk = windows(record, syncs, dropped)
        checked = 0
        for _ in range(1 if reason_of(place) else ROUNDS_MAX):
            chosen = choose_at(at_risk, choose(record, count, chance), chance)
            failures, more = cuts.run(record, chosen, check, Dropped(dropped), stops_at_first=True)
            checked += more
            if failures:
                outcomes.found[place] = " ".join(failures[0][2].split())[:160]
                break
        outcomes.cuts[place] = outcomes.cuts.get(place, 0) + checked
        found = outcomes.found.get(place, "nothing is lost")
        print(f"  without the {len(dropped)} syncs of the {place}: {checked} cuts, {found}", flush=True)


def reason_of(place):
    """Why nothing is lost without the syncs of a place, if that is so."""
    return next((reason for end, reason in REDUNDANT.items() if place.endswith(end)), None)


def choose_at(at_risk, chosen, chance):
    """Moves most of the cuts to where the syncs that are left out are missed."""
    for cut in chosen:
        if chance.random() < TARGETED_PART:
            first, last = chance.choice(at_risk)
            soon = min(last, first + int(chance.expovariate(1 / SOON_CALLS)))
            cut.at = chance.choice((soon, last, chance.randint(first, last)))
    return sorted(chosen, key=lambda cut: cut.at)


def windows(record, syncs, dropped):
    """From each sync that is left out until just before the next one of the same file that is not."""
    dropped_at = {(sync.at, sync.path) for sync in dropped}
    result, following = [], {}
    for sync in reversed(syncs):
        if (sync.at, sync.path) in dropped_at:
            result.append((sync.at + 1, following.get(sync.path, len(record.calls))))
        else:
            following[sync.path] = sync.at
    return result


class Dropped:
    def __init__(self, syncs):
        self.syncs = {(sync.at, sync.path) for sync in syncs}

    def __call__(self, file, at):
        return (at, file.path) in self.syncs
