"""The system calls of a process that change files, recorded by strace in the order of their ends."""

import dataclasses
import heapq
import pathlib
import re
import time

# All that can change a file or a name, or give a descriptor another meaning.
TRACED = (
    "open,openat,openat2,creat,close,close_range,dup,dup2,dup3,fcntl,lseek,read,"
    "write,pwrite64,writev,pwritev,pwritev2,copy_file_range,sendfile,splice,"
    "ftruncate,truncate,fallocate,mmap,io_uring_setup,"
    "fsync,fdatasync,sync,syncfs,sync_file_range,"
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat"
)
# A reply that is sent before its sync has ended is seen for this long at least.
SYNC_DELAY_MICROSECONDS = 2000
PATIENCE_SECONDS = 60
SYNCS = {"fsync", "fdatasync", "sync", "syncfs", "sync_file_range"}


@dataclasses.dataclass
class Call:
    """`began` and `ended` are places in the record; `process` tells tables of descriptors apart; `clock` is the time of the
    end."""

    process: str
    name: str
    arguments: str
    strings: list
    result: int
    error: str
    began: int
    ended: int
    clock: float


class Recorder:
    """Programs like the binary, each run of which is recorded in a file of the folder. The process is the binary itself:
    strace is its grandchild."""

    def __init__(self, binary, folder):
        self.binary = binary
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.program = self.make("recorded", f"delay_exit={SYNC_DELAY_MICROSECONDS}")

    def failing_from(self, number):
        """A program each of whose threads has errors of the disk from this sync on."""
        return self.make(f"failing-{number}", f"error=EIO:when={number}+")

    def make(self, name, of_syncs):
        program = self.folder / name
        words = ["strace", "-D", "-f", "--seccomp-bpf", "-q", "-ttt", "-xx", "-s", str(1 << 26)]
        words += ["-e", f"trace={TRACED}", "-e", f"inject=fsync,fdatasync:{of_syncs}"]
        quoted = " ".join(f"'{word}'" for word in words)
        program.write_text(f'#!/bin/sh\nexec {quoted} -o "{self.folder}/$$.calls" {self.binary} "$@"\n')
        program.chmod(0o755)
        return program

    def calls(self):
        """The calls of all runs, after these have ended, in the order of their ends."""
        paths = sorted(self.folder.glob("*.calls"))
        for path in paths:
            wait_for_end(path)
        merged = heapq.merge(*(read_lines(path) for path in paths), key=lambda line: line[0])
        return list(read_calls(merged))


def read_lines(path):
    process = path.name.split(".")[0]
    with open(path) as lines:
        for line in lines:
            thread, clock, rest = line.split(None, 2)
            yield float(clock), process, thread, rest.rstrip("\n")


def wait_for_end(path):
    """Waits until strace has written the end of the process."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    main = path.name.split(".")[0]
    while True:
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - 4096, 0))
            tail = file.read().decode()
        if re.search(rf"^{main} .*\+\+\+ (exited|killed) ", tail, re.M):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the record {path} has no end")
        time.sleep(0.01)


def read_calls(lines):
    unfinished = {}
    for at, (clock, process, thread, text) in enumerate(lines):
        if text.startswith(("+++", "---")):
            continue
        if text.endswith("<unfinished ...>"):
            text = text.removesuffix("<unfinished ...>")
            unfinished[process, thread] = (at, text)
            if text.startswith("close("):
                # From now on, another thread may get its number.
                yield parse(process, f"{text}) = 0", at, at, clock)
        elif text.startswith("<... "):
            began, first = unfinished.pop((process, thread))
            if not first.startswith("close("):
                yield parse(process, first + text[text.index("resumed>") + 8 :], began, at, clock)
        else:
            yield parse(process, text, at, at, clock)


def parse(process, text, began, ended, clock):
    head, _, result = text.rpartition(" = ")
    name, _, arguments = head.partition("(")
    pieces = arguments.split('"')
    words = result.split()
    number = -1 if words[0] == "?" else int(words[0], 0)
    error = words[1] if number < 0 and len(words) > 1 else ""
    strings = [bytes.fromhex(piece.replace("\\x", "")) for piece in pieces[1::2]]
    # What is left of the arguments has a mark in place of each string.
    return Call(process, name, "$".join(pieces[::2]).rstrip(") "), strings, number, error, began, ended, clock)
