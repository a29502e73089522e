"""Programs written by a model, run behind walls: :func:`run`.

Each program has a fresh interpreter (standard library only), an empty environment, an empty
standard input and a temporary folder that is removed after. Which walls the machine can build is found out
by trying; :func:`walls` and ``Outcome.walls`` say which ones stand.

================  ======================================================================================
``limits``        resource limits on CPU time, address space, file size, open files, no core dump (always)
``subreaper``     daemons and orphans stay ours, and are ended with the program (Linux)
``user``          where the caller is root: a user id that nobody has, and the limit on processes
``namespaces``    no network, no sight of other processes, a root folder of its own, read-only, with the
                  interpreter and the system's libraries; the folder is in memory and limited as a whole
``landlock``      the kernel refuses to open any other file, to write any outside the folder (Linux 6.2)
``seccomp``       the kernel refuses sockets, tracing, mounts, new namespaces, signals to processes outside
``hook``          Python's audit hook, only where the kernel cuts off no network or no files: a fence that
                  careless programs do not get over and hostile ones do
================  ======================================================================================

What it protects against, where ``namespaces`` or ``landlock`` with ``seccomp`` stand: using the network,
reading or changing the user's files, reaching the caller and other processes, running on after the
verdict, filling memory, disk or the process table, flooding the caller with output.

What it does not protect against: faults in the kernel or the interpreter; channels of timing; the use of
one processor for as long as the limits say; reading world-readable files below ``/usr``. Without
``namespaces`` and ``landlock`` the fence is all there is between a program and the user's files. On
macOS only ``limits`` and ``hook`` stand: a program that leaves its process group may live on, and
the limits on memory and processes do not hold. For programs meant to attack, use a virtual machine.

A verdict of ``passed`` says that the main thread came to the end of the program's text: a random token, made for each
run, is handed over after that, so printing, ``os._exit(0)``, ``sys.exit(0)``, replaced builtins and
exceptions do not make one. It can still be forged: the token is in the memory of the same process
until then, and code that searches the interpreter's frames finds it, or makes a trace function
jump over the tests. Nor does the sandbox judge the tests: an object that is equal to everything passes
``assert f(x) == y``. Models have no reason to do either; read the text where a score depends on it.
"""

import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from prunelib.errors import PrunelibError

_JAIL = Path(__file__).with_name("jail")
_LAYERS = ("subreaper", "user", "namespaces", "landlock", "seccomp")
_SLACK_S = 15  # beyond the wall limit, to start and to end everything
_ENDS = {
    "network": ("namespaces", "seccomp", "hook"),
    "files": ("namespaces", "landlock", "hook"),
    "other processes": ("namespaces", "seccomp", "hook"),
    "daemons": ("namespaces", "subreaper"),
    "number of processes": ("user", "namespaces"),
}


@dataclass(frozen=True)
class Limits:
    """What one program may use. The defaults are ample for HumanEval.

    Attributes
    ----------
    cpu : whole seconds of processor time of each process
    wall : seconds from the start, for all
    memory : bytes of address space of each process, and of resident memory of all together
    processes : processes and threads at a time, the program itself included
    file_bytes : bytes of the largest file, and of all files together
    output : bytes kept of what is written to standard output and error; the rest is dropped
    """

    cpu: int = 5
    wall: float = 8.0
    memory: int = 1 << 30
    processes: int = 16
    file_bytes: int = 16 << 20
    output: int = 64 << 10

    def __post_init__(self):
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise PrunelibError(f"the limit {name} must be a number above 0, got {value!r}")
            if name != "wall" and value != int(value):
                raise PrunelibError(f"the limit {name} must be a whole number, got {value!r}")


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes
    ----------
    status : ``passed`` (came to its end), ``failed`` (an exception, also SyntaxError), ``exited`` (left by
        itself before its end), ``timeout`` (wall or CPU), ``memory``, ``killed`` (any other limit or signal)
    detail : why, in one line; for an exception its type, its words and the line of the program
    output : standard output and error together, cut at the limit
    walls : the layers that stood around it
    """

    status: str
    detail: str
    output: str
    walls: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run the text of a program behind all the walls that this machine can build.

    ``__name__`` is ``"program"``, as in a module that is imported, and hashes of strings
    are the same in each run. Raises PrunelibError where there is no sandbox (Windows) or
    it cannot start.
    """
    return _run(program, limits or Limits(), frozenset())


@functools.cache
def walls() -> dict[str, tuple[str, ...]]:
    """What is kept from a program on this machine, each with the layers that do so; none: it is not kept.

    Found by running an empty program. ``hook`` alone is a fence, no wall.
    """
    standing = run("").walls
    found = {name: tuple(layer for layer in layers if layer in standing) for name, layers in _ENDS.items()}
    if os.name == "posix" and os.getuid() == 0 and "user" not in standing:
        found["number of processes"] = ()  # root is exempt
    return found


# Layers that the kernel has refused in this process, with its reason: not tried again.
_refused: dict[str, str] = {}


def _run(program: str, limits: Limits, without: frozenset[str]) -> Outcome:
    """:func:`run` without some layers, as on a machine that lacks them."""
    if os.name != "posix":
        raise PrunelibError("programs written by a model run in a sandbox, which needs Linux or macOS")
    while True:
        layers = [name for name in _candidates() if name not in without and name not in _refused]
        if not {"namespaces", "landlock"} & {*layers} or not {"namespaces", "seccomp"} & {*layers}:
            layers.append("hook")
        answer = _attempt({"program": program, "limits": asdict(limits), "layers": layers})
        if "refused" not in answer:
            return Outcome(answer["status"], answer["detail"], answer["output"], ("limits", *layers))
        if answer["refused"] not in layers:
            raise PrunelibError(f"the sandbox cannot be built: {answer['detail']}")
        _refused[answer["refused"]] = answer["detail"]


def _candidates() -> list[str]:
    if sys.platform != "linux":
        return []
    return [name for name in _LAYERS if name != "user" or os.getuid() == 0]


def _attempt(job: dict) -> dict:
    """The supervisor's answer to a job."""
    folder = tempfile.mkdtemp(prefix="prunelib-sandbox-")
    # -P and -s -S: no module of the caller's folder or of a site. The seed is the only variable, and the
    # program does not see it.
    command = [sys.executable, "-s", "-S", "-P", "-X", "utf8", str(_JAIL), folder]
    try:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
            env={"PYTHONHASHSEED": "0"}, start_new_session=True,
        )  # fmt: skip
        # It keeps the time itself; this is for the case that it hangs. Its end is that of its children.
        clock = threading.Timer(job["limits"]["wall"] + _SLACK_S, supervisor.kill)
        clock.daemon = True
        clock.start()
        try:
            supervisor.stdin.write(json.dumps(job | {"folder": folder}).encode() + b"\n")
            supervisor.stdin.flush()
            answer = supervisor.stdout.read()
        except BrokenPipeError:
            answer = supervisor.stdout.read()
        finally:
            # Its input is closed first: on an interrupt, that is what makes it end the program.
            with supervisor.stdout, supervisor.stdin:
                pass
            supervisor.wait()
            clock.cancel()
    except OSError as error:
        raise PrunelibError(f"the sandbox cannot start: {error}") from error
    finally:
        _remove(folder)
    try:
        return json.loads(answer)
    except ValueError:
        said = answer.decode(errors="replace").strip().splitlines()
        raise PrunelibError(f"the sandbox ended without an answer: {said[-1] if said else 'it was killed'}") from None


def _remove(folder: str) -> None:
    """A folder as a program may leave it: closed, or deeper than Python can recurse."""
    try:
        os.rmdir(folder)
    except OSError:
        subprocess.run(["chmod", "-R", "u+rwx", folder], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
