"""Run a program that a model wrote, where it can do no harm.

It runs in a process of its own with an empty environment, in a temporary folder that
is removed afterwards, and behind these walls, all of which must stand or nothing is run:

* **files**: only the folder can be written, only the folder and Python's own library
  can be read (Landlock);
* **system calls**: no socket, no new process or program, no signal to anyone, no change of
  a file's rights, nothing of other processes or of the system (seccomp);
* **limits** of processor time, wall time, memory, size of a file and of the folder,
  and output; root's capabilities are given up first.

**What it does not protect against.** A fault of the kernel: for code that wants to
break out, use a virtual machine. Other system calls stay open, so the program can see
facts of the machine (its clock, its load). And the verdict: program and test run in one
process, so a program that sets out to forge a pass can find what says so, by walking
frames. Leaving early, patching builtins and printing are no pass; language models
that only answer the question do no more than that. Linux on x86-64 or ARM64 only.
"""

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from prunelib.errors import PrunelibError

STATUSES = ("passed", "failed", "exited", "timed out", "memory", "output", "disk", "killed")
"""``failed``: an exception; ``exited``: left before the test was over; ``killed``: ended by a signal."""

_LOOK_S = 0.05


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu: int = 5
    """Processor seconds."""
    wall: float = 8.0
    """Seconds."""
    memory: int = 512 * 2**20
    """Bytes of address space, with the interpreter's own."""
    file: int = 4 * 2**20
    """Bytes of one file."""
    disk: int = 16 * 2**20
    """Bytes of the whole folder."""
    output: int = 64 * 2**10
    """Bytes of standard output and error together."""


@dataclass(frozen=True)
class Outcome:
    """How it ended: one of :data:`STATUSES`, a line on why, and what was printed (cut at the limit)."""

    status: str
    detail: str
    output: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run(program: str, test: str = "", limits: Limits | None = None) -> Outcome:
    """Run ``program``, then ``test`` in its names but with builtins that the program cannot have changed.

    Raises PrunelibError, before anything has run, where a wall cannot be built.
    """
    limits = limits or Limits()
    if sys.platform != "linux":
        raise PrunelibError(f"generated code is not run here: its sandbox needs Linux, this is {sys.platform}")
    token, started = secrets.token_hex(16), time.monotonic()
    folder = tempfile.mkdtemp(prefix="prunelib-sandbox-")
    try:
        ours, theirs = os.pipe()
        job = {"program": program, "test": test, "folder": folder, "token": token, "verdict": theirs,
               "cpu": limits.cpu, "memory": limits.memory, "file": limits.file}  # fmt: skip
        try:
            # The interpreter below a virtual environment: its library lies where everybody may read it.
            command = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-B", _jail()]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     env={}, cwd=folder, pass_fds=(theirs,), start_new_session=True)  # fmt: skip
        finally:
            os.close(theirs)
        try:
            with child.stdin as stream:
                stream.write(json.dumps(job).encode() + b"\n")
        except BrokenPipeError:
            pass
        try:
            texts, stopped = _watch(child, ours, Path(folder), limits, started)
        finally:
            child.kill()  # it can have no children
            child.stdout.close()
            os.close(ours)
            code = child.wait()
    finally:
        _remove(folder)
    status, detail = stopped or _verdict(texts["verdict"], token, code, limits)
    return Outcome(status, detail, texts["output"].decode(errors="replace"), time.monotonic() - started)


def _jail() -> str:
    return str(Path(__file__).with_name("jail.py"))


def _watch(child, verdict: int, folder: Path, limits: Limits, started: float):
    """Read both pipes until they close or a limit is passed; ({name: bytes}, (status, detail) or None)."""
    texts, most = {"output": b"", "verdict": b""}, {"output": limits.output, "verdict": 4096}
    looked = 0.0
    with selectors.DefaultSelector() as waiting:
        for stream, name in ((child.stdout.fileno(), "output"), (verdict, "verdict")):
            os.set_blocking(stream, False)
            waiting.register(stream, selectors.EVENT_READ, name)
        while waiting.get_map():
            for key, _ in waiting.select(_LOOK_S):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    waiting.unregister(key.fd)
                texts[key.data] += chunk
                if len(texts[key.data]) > most[key.data]:
                    texts[key.data] = texts[key.data][: most[key.data]]
                    return texts, ("output", f"wrote more than {most[key.data]} bytes")
            now = time.monotonic()
            if now - started > limits.wall:
                return texts, ("timed out", f"wall time limit of {limits.wall:g} s")
            if now - looked > _LOOK_S:
                looked = now
                if _size(folder, limits.disk) > limits.disk:
                    return texts, ("disk", f"its folder grew over {limits.disk} bytes")
    return texts, None


def _size(folder: Path, enough: int) -> int:
    """Bytes of all files below, at least one block each; stops counting at ``enough``."""
    total, waiting = 0, [folder]
    while waiting and total <= enough:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except OSError:
            continue
    return total


def _verdict(text: bytes, token: str, code: int, limits: Limits) -> tuple[str, str]:
    first, _, last = text.decode(errors="replace").partition("\n")
    if first.startswith("refused "):
        raise PrunelibError(f"generated code is not run here: {first.removeprefix('refused ')}")
    if first != "ready":
        raise PrunelibError(f"generated code is not run here: the sandbox did not start (exit code {code})")
    status, _, detail = last.strip().rpartition("\n")[2].partition(" ")
    if status == "passed":
        real = detail == token and code == 0
        return ("passed", "") if real else ("failed", "claimed a pass that was none")
    if status in STATUSES:
        return status, detail
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timed out", f"processor time limit of {limits.cpu} s"
    if code < 0:
        return "killed", f"by {signal.Signals(-code).name}"
    return "exited", f"left by itself with exit code {code}"


def _remove(folder: str) -> None:
    """Whatever the program left: locked folders, and trees deeper than Python's own removal can follow."""
    for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*command, "--", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
