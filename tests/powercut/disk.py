"""A disk that may lose whatever is not synced.

What the model assumes:
- A sync of a file makes those of its writes and truncations durable that had ended before the sync began, and its size; never
  its name. A sync of a directory does so with the names in it, and not with the content of the files, nor with the directory
  itself. `syncfs` does both for everything.
- Until then, each write, each truncation and each change of a name is lost or kept independently of all others, in any
  order. A write may be torn: each aligned sector of 512 octets is lost or kept. What was never written reads as zeros.
- A rename is atomic: after the cut there is the old name or the new one, also between two directories. A sync of either
  directory makes it durable, with earlier changes of the same names.
- A failed sync makes nothing durable, and its writes are clean for the kernel: no later sync writes them (`fail_sync`).
- The index of SQLite's log (-shm) is memory.
"""

import dataclasses
import os
import pathlib
import re

from system_calls import SYNCS

SECTOR = 512
AT_REMOVEDIR = "AT_REMOVEDIR"


class File:
    def __init__(self, number, path):
        self.number = number
        self.path = path  # the first name, for descriptions
        self.view = bytearray()  # as processes see it
        self.durable = bytearray()
        self.pending = []  # of DataChange

    def settle(self, before):
        """Makes durable what ended before."""
        for change in self.pending:
            if change.at < before:
                change.apply(self.durable)
        self.pending = [change for change in self.pending if change.at >= before]


class Directory:
    def __init__(self, number, path):
        self.number = number
        self.path = path
        self.view = {}
        self.durable = {}


@dataclasses.dataclass
class DataChange:
    at: int
    offset: int
    data: bytes  # None is a truncation to the offset

    def apply(self, content):
        if self.data is None:
            resize(content, self.offset)
            return
        if len(content) < self.offset:
            resize(content, self.offset)
        content[self.offset : self.offset + len(self.data)] = self.data

    def apply_sectors(self, content, is_kept):
        """Writes only the sectors that are kept."""
        start, end = self.offset, self.offset + len(self.data)
        while start < end:
            stop = min(end, (start // SECTOR + 1) * SECTOR)
            if is_kept():
                DataChange(0, start, self.data[start - self.offset : stop - self.offset]).apply(content)
            start = stop


@dataclasses.dataclass
class NameChange:
    at: int
    effects: list  # of (directory, name, file or None)

    def names(self):
        return {(directory.number, name) for directory, name, _ in self.effects}

    def touches(self, directory):
        return any(one is directory for one, _, _ in self.effects)


def resize(content, octets):
    if octets < len(content):
        del content[octets:]
    else:
        content.extend(bytes(octets - len(content)))


@dataclasses.dataclass
class Descriptor:
    file: object
    position: int = 0
    appends: bool = False


class Loss:
    """What a cut loses of what is not synced: everything, any part, the end, the begin, all data or all names."""

    KINDS = ("everything", "random", "random", "random", "end", "begin", "data", "names")

    def __init__(self, chance):
        self.chance = chance
        self.kind = chance.choice(self.KINDS)
        self.part = chance.choice((0.1, 0.5, 0.9))

    def keeps_name(self, place):
        match self.kind:
            case "everything" | "names":
                return False
            case "data":
                return True
            case "end":
                return place < self.part
            case "begin":
                return place > self.part
        return self.chance.random() < self.part

    def keep_data(self, content, change, place):
        match self.kind:
            case "everything" | "data":
                return
            case "names":
                return change.apply(content)
            case "end" | "begin":
                if (place < self.part) == (self.kind == "end"):
                    change.apply(content)
                return
        fate = self.chance.random()
        if change.data is not None and len(change.data) > SECTOR and fate < 0.3:
            change.apply_sectors(content, lambda: self.chance.random() < self.part)
        elif self.chance.random() < self.part:
            change.apply(content)


class Disk:
    """The files below a folder, changed by calls one after another. `is_dropped(file, at)` removes a sync. `existing` are names
    of directories that were there before."""

    def __init__(self, folder, is_dropped=lambda file, at: False, existing=()):
        self.folder = pathlib.Path(folder)
        self.is_dropped = is_dropped
        self.count = 0
        self.root = Directory(0, "")
        self.everything = Directory(-1, "every directory")
        for name in existing:
            self.count += 1
            self.root.view[name] = self.root.durable[name] = Directory(self.count, name)
        self.name_changes = []
        self.descriptors = {}
        self.files = []
        self.at = 0

    def advance(self, calls, until):
        """Applies calls up to this index."""
        while self.at < until:
            call = calls[self.at]
            self.apply(call, self.at)
            self.at += 1

    def apply(self, call, at):
        if call.name in SYNCS:
            self.sync(call)
        elif call.result >= 0:
            handler = getattr(self, f"on_{call.name}", None)
            if handler:
                handler(call, call.ended)

    # Paths and descriptors.

    def find(self, call, index, base=None):
        """The directory and the name of the path with this index, or None outside the folder."""
        path = os.fsdecode(call.strings[index])
        if not path.startswith("/"):
            start = self.descriptors.get((call.process, base)) if base is not None else None
            if start is None or not isinstance(start.file, Directory):
                return None, None
            directory, parts = start.file, pathlib.PurePath(path).parts
        else:
            path = os.path.normpath(path)
            if not path.startswith(f"{self.folder}/"):
                return (None, None)
            directory, parts = self.root, pathlib.PurePath(path).relative_to(self.folder).parts
        if not parts:
            return None, None
        for part in parts[:-1]:
            directory = directory.view.get(part)
            if not isinstance(directory, Directory):
                return None, None
        return directory, parts[-1]

    def make(self, kind, directory, name, at):
        self.count += 1
        made = kind(self.count, f"{directory.path}/{name}".lstrip("/"))
        if kind is File:
            self.files.append(made)
        self.change_names(at, (directory, name, made))
        return made

    def change_names(self, at, *effects):
        for directory, name, file in effects:
            if file is None:
                directory.view.pop(name, None)
            else:
                directory.view[name] = file
        self.name_changes.append(NameChange(at, list(effects)))

    def change_data(self, file, at, offset, data):
        change = DataChange(at, offset, data)
        change.apply(file.view)
        if not file.path.endswith("-shm"):
            file.pending.append(change)

    def open(self, call, index, base, flags, at):
        path = os.fsdecode(call.strings[index])
        if os.path.normpath(path) == str(self.folder):
            self.descriptors[call.process, call.result] = Descriptor(self.root)
            return
        directory, name = self.find(call, index, base)
        file = directory.view.get(name) if directory else None
        if file is None and directory and "O_CREAT" in flags:
            file = self.make(File, directory, name, at)
        if file is None:
            self.descriptors.pop((call.process, call.result), None)
            return
        if "O_TRUNC" in flags and isinstance(file, File) and file.view:
            self.change_data(file, at, 0, None)
        self.descriptors[call.process, call.result] = Descriptor(file, appends="O_APPEND" in flags)

    def descriptor(self, call, number):
        found = self.descriptors.get((call.process, number))
        return found if found and isinstance(found.file, File) else None

    def on_openat(self, call, at):
        base, flags = re.match(r"(\w+), \$, ([A-Z_|]+)", call.arguments).groups()
        self.open(call, 0, None if base == "AT_FDCWD" else int(base), flags, at)

    def on_open(self, call, at):
        self.open(call, 0, None, call.arguments, at)

    def on_openat2(self, call, at):
        raise NotImplementedError(call)

    on_creat = on_io_uring_setup = on_splice = on_fallocate = on_truncate = on_pwritev = on_pwritev2 = on_openat2
    on_symlink = on_symlinkat = on_openat2

    def on_close(self, call, at):
        self.descriptors.pop((call.process, numbers(call)[0]), None)

    def on_fcntl(self, call, at):
        if "F_DUPFD" in call.arguments:
            self.duplicate(call, numbers(call)[0], call.result)

    def on_dup(self, call, at):
        self.duplicate(call, numbers(call)[0], call.result)

    on_dup2 = on_dup3 = on_dup

    def duplicate(self, call, old, new):
        self.descriptors.pop((call.process, new), None)
        if (call.process, old) in self.descriptors:
            self.descriptors[call.process, new] = self.descriptors[call.process, old]

    def on_mmap(self, call, at):
        words = call.arguments.split(", ")
        found = self.descriptor(call, int(words[4])) if words[4].lstrip("-").isdigit() else None
        if found and "MAP_SHARED" in words[3] and "PROT_WRITE" in words[2]:
            # What is written to such memory is not recorded.
            assert found.file.path.endswith("-shm"), found.file.path

    # Content.

    def on_lseek(self, call, at):
        if found := self.descriptor(call, numbers(call)[0]):
            found.position = call.result

    def on_read(self, call, at):
        if found := self.descriptor(call, numbers(call)[0]):
            found.position += call.result

    def on_write(self, call, at):
        if found := self.descriptor(call, numbers(call)[0]):
            if found.appends:
                found.position = len(found.file.view)
            data = b"".join(call.strings)[: call.result]
            self.change_data(found.file, at, found.position, data)
            found.position += call.result

    on_writev = on_write

    def on_pwrite64(self, call, at):
        values = numbers(call)
        if found := self.descriptor(call, values[0]):
            self.change_data(found.file, at, values[-1], call.strings[0][: call.result])

    def on_ftruncate(self, call, at):
        number, octets = numbers(call)
        if found := self.descriptor(call, number):
            self.change_data(found.file, at, octets, None)

    def on_copy_file_range(self, call, at):
        source, source_offset, target, target_offset = call.arguments.split(", ")[:4]
        assert (source_offset, target_offset) == ("NULL", "NULL"), call
        self.copy(call, int(source), int(target), at)

    def on_sendfile(self, call, at):
        target, source, offset = call.arguments.split(", ")[:3]
        if self.descriptor(call, int(target)):
            assert offset == "NULL", call
            self.copy(call, int(source), int(target), at)

    def copy(self, call, source, target, at):
        source, target = self.descriptor(call, source), self.descriptor(call, target)
        if target is None:
            return
        assert source, "the source of a copy is known"
        data = bytes(source.file.view[source.position : source.position + call.result])
        assert len(data) == call.result, call
        self.change_data(target.file, at, target.position, data)
        source.position += call.result
        target.position += call.result

    # Names.

    def bases(self, call):
        """The directory descriptors before each path; None is the working directory."""
        bases = re.findall(r"(AT_FDCWD|\d+), \$", call.arguments)
        return [None if base == "AT_FDCWD" else int(base) for base in bases] or [None, None]

    def on_mkdir(self, call, at):
        directory, name = self.find(call, 0, self.bases(call)[0])
        if directory:
            self.make(Directory, directory, name, at)

    on_mkdirat = on_mkdir

    def on_unlink(self, call, at):
        directory, name = self.find(call, 0, self.bases(call)[0])
        if directory:
            self.change_names(at, (directory, name, None))

    on_unlinkat = on_rmdir = on_unlink

    def on_rename(self, call, at):
        bases = self.bases(call)
        (old, old_name), (new, new_name) = self.find(call, 0, bases[0]), self.find(call, 1, bases[1])
        if old is None and new is None:
            return
        assert old and new, call
        moved, replaced = old.view[old_name], new.view.get(new_name)
        left = replaced if "RENAME_EXCHANGE" in call.arguments else None
        self.change_names(at, (old, old_name, left), (new, new_name, moved))

    on_renameat = on_renameat2 = on_rename

    def on_link(self, call, at):
        bases = self.bases(call)
        (old, old_name), (new, new_name) = self.find(call, 0, bases[0]), self.find(call, 1, bases[1])
        if new:
            self.change_names(at, (new, new_name, old.view[old_name]))

    on_linkat = on_link

    # Syncs.

    def sync(self, call):
        if call.name in ("sync", "syncfs"):
            covered = [*self.files, self.everything] if call.result == 0 else []
            if call.name == "syncfs" and (call.process, numbers(call)[0]) not in self.descriptors:
                return
        else:
            found = self.descriptors.get((call.process, numbers(call)[0]))
            if found is None:
                return
            covered = [found.file]
        assert call.name != "sync_file_range", call
        for file in covered:
            if call.error:
                self.fail_sync(file, call)
            elif call.result == 0 and not self.is_dropped(file, self.at):
                self.settle(file, call.began)

    def settle(self, file, before):
        if isinstance(file, File):
            file.settle(before)
            return
        settled, durable, pending = set(), [], []
        for change in reversed(self.name_changes):
            is_covered = change.at < before and (file is self.everything or change.touches(file))
            # Earlier changes of the same names are durable, too.
            if is_covered or change.names() & settled:
                settled |= change.names()
                durable.append(change)
            else:
                pending.append(change)
        for change in reversed(durable):
            for directory, name, target in change.effects:
                set_entry(directory.durable, name, target)
        self.name_changes = pending[::-1]

    def waiting(self, file):
        """How many changes a sync of the file or directory would make durable."""
        if isinstance(file, File):
            return len(file.pending)
        return sum(file is self.everything or change.touches(file) for change in self.name_changes)

    def fail_sync(self, file, call):
        if isinstance(file, File):
            file.pending = [change for change in file.pending if change.at >= call.began]

    # The cut.

    def cut(self, target, loss):
        """Writes what a cut now would leave into the target."""
        names = {}
        count = len(self.name_changes) or 1
        for place, change in enumerate(self.name_changes):
            if loss.keeps_name(place / count):
                for directory, name, file in change.effects:
                    set_entry(names.setdefault(directory.number, dict(directory.durable)), name, file)
        self.write_directory(self.root, pathlib.Path(target), names, loss)

    def write_directory(self, directory, target, names, loss):
        target.mkdir(mode=0o700, exist_ok=True)
        for name, file in names.get(directory.number, directory.durable).items():
            if isinstance(file, Directory):
                self.write_directory(file, target / name, names, loss)
            elif not name.endswith("-shm"):
                descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "wb") as copy:
                    copy.write(self.content(file, loss))

    def content(self, file, loss):
        if not file.pending:
            return file.durable
        content = bytearray(file.durable)
        for place, change in enumerate(file.pending):
            loss.keep_data(content, change, place / len(file.pending))
        return content


def set_entry(entries, name, file):
    if file is None:
        entries.pop(name, None)
    else:
        entries[name] = file


def numbers(call):
    """The numbers among the arguments."""
    return [int(word, 0) for word in call.arguments.split(", ") if re.fullmatch(r"-?\d+", word)]
