"""Run a program that a model wrote, where it can do no harm.

It runs in a process of its own with an empty environment and behind these walls, all of
which must stand or nothing is run:

* **files**: only Python's own library can be read (Landlock), and nothing can be written
  or created, in any place: no disk to fill, no folder to remove. The system calls that
  do so are not allowed (seccomp) and the limit of a file's size is 0. A quota in a file
  system of its own needs rights that not every user and kernel has; this needs none;
* **system calls**: a list of those that Python needs to import, compute, keep time and use
  threads, some only with given arguments; every other one is refused. No socket, pipe,
  shared memory, message queue, process, program, signal to another, priority;
* **limits** of processor time, memory, output; and of wall time and threads, which a
  supervisor between caller and program holds. It dies with the caller, and the program with
  it, whatever ends them. Root's capabilities are given up first.

**What it does not protect against.** A fault of the kernel: for code that wants to
break out, use a virtual machine. The program can see facts of the machine: its clock and
load, whether a file of a given name exists and how large it is. Threads are counted
every 20 ms, so more than the limit can live that long. And the verdict: program and test
run in one interpreter, so a program that sets out to forge a pass can: it can speak the
judge's part of the protocol on the judge's pipe, or reach the test's frame when the test
calls it. What costs little does not work: what judges is bound before the program runs, the
test arrives after the program has ended, and the word for a pass after the test has.
Leaving early, patching builtins or the library, walking frames or memory for the word,
and printing are no pass. Linux on x86-64 or ARM64 only.
"""

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from prunelib.errors import PrunelibError

STATUSES = ("passed", "failed", "exited", "timed out", "memory", "output", "threads", "killed")
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
    threads: int = 64
    """Threads at one time, with the first."""
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
    token, started = secrets.token_hex(16).encode(), time.monotonic()
    source = test.encode(errors="surrogatepass")
    ends = [*os.pipe(), *os.pipe(), *os.pipe()]
    verdict, verdict_in, report, report_in, answers_out, answers = ends
    job = {
        "program": program,
        "size": len(source),
        "caller": os.getpid(),
        "verdict": verdict_in,
        "report": report_in,
        "answers": answers_out,
        "wall": limits.wall,
        "cpu": limits.cpu,
        "memory": limits.memory,
        "threads": limits.threads,
    }
    child = None
    try:
        # The interpreter below a virtual environment: its library lies where everybody may read it.
        command = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-B", _jail()]
        given = (verdict_in, report_in, answers_out)
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            cwd="/",
            pass_fds=given,
            start_new_session=True,
        )
        for end in given:
            os.close(end)
            ends.remove(end)
        try:
            with child.stdin as stream:
                stream.write(json.dumps(job).encode() + b"\n")
        except BrokenPipeError:
            pass
        texts, stopped = _watch(child, verdict, answers, {b"\nended\n": source, b"\ntested\n": token}, limits)
        if not stopped:
            child.wait()
            texts["report"] = os.read(report, 100)
    finally:
        if child:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # neither can leave the group
            child.stdout.close()
            child.wait()
        for end in ends:
            os.close(end)
    status, detail = stopped or _verdict(texts, token.decode(), child.returncode, limits)
    return Outcome(status, detail, texts["output"].decode(errors="replace"), time.monotonic() - started)


def _jail() -> str:
    return str(Path(__file__).with_name("jail.py"))


def _watch(child, verdict: int, answers: int, asked: dict[bytes, bytes], limits: Limits):
    """Read both pipes until they close or a limit is passed; ({name: bytes}, (status, detail) or None).

    ``asked``: what is said when the judge asks for it, in this order, each once.
    """
    texts, most = {"output": b"", "verdict": b""}, {"output": limits.output, "verdict": 4096}
    waits = list(asked.items())
    with selectors.DefaultSelector() as waiting:
        for stream, name in ((child.stdout.fileno(), "output"), (verdict, "verdict")):
            os.set_blocking(stream, False)
            waiting.register(stream, selectors.EVENT_READ, name)
        while waiting.get_map():
            for key, _ in waiting.select():
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    waiting.unregister(key.fd)
                texts[key.data] += chunk
                if len(texts[key.data]) > most[key.data]:
                    texts[key.data] = texts[key.data][: most[key.data]]
                    return texts, ("output", f"wrote more than {most[key.data]} bytes")
            while waits and waits[0][0] in texts["verdict"]:
                try:
                    _say(answers, waits.pop(0)[1])
                except BrokenPipeError:
                    waits.clear()
    return texts, None


def _say(pipe: int, text: bytes) -> None:
    while text:
        text = text[os.write(pipe, text) :]


def _verdict(texts: dict[str, bytes], token: str, ended: int, limits: Limits) -> tuple[str, str]:
    first, _, last = texts["verdict"].decode(errors="replace").partition("\n")
    if first.startswith("refused "):
        raise PrunelibError(f"generated code is not run here: {first.removeprefix('refused ')}")
    if first != "ready":
        raise PrunelibError(f"generated code is not run here: the sandbox did not start (exit code {ended})")
    code, _, why = texts["report"].decode().partition(" ")
    if not code:
        return "killed", "its supervisor was killed"
    if why:
        what = {
            "wall": ("timed out", f"wall time limit of {limits.wall:g} s"),
            "threads": ("threads", f"more than {limits.threads} threads"),
        }
        return what[why]
    code = int(code)
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
