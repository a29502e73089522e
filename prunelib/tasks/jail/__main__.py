"""The inside of ``prunelib/tasks/sandbox.py``: runs one program behind walls and ends it with all its children.

Run by a bare interpreter as ``python DIR FOLDER``, the program's folder only to be seen in a list of
processes; only the standard library is used. Three processes:

* the supervisor (this one) keeps the time and ends every process that came from it;
* the warden, process 1 of the namespaces where there are any, waits for the runner;
* the runner gives up its rights and executes the program.

One line of JSON comes in on standard input, which stays open as long as the caller lives; one
leaves on standard output. ``layers`` names the walls to build; one that the kernel refuses ends
the job with ``{"refused": layer}`` before a line of the program has run.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import types

import walls

TICK_S = 0.02
MIB = 2**20


def main() -> None:
    text = b""
    while not text.endswith(b"\n"):
        chunk = os.read(0, 1 << 20)
        if not chunk:
            return
        text += chunk
    job = json.loads(text)
    try:
        answer = supervise(job)
    except walls.Refused as error:
        answer = {"refused": error.layer, "detail": str(error)}
    finally:
        left = end_all()
    if left:
        answer["detail"] += f"; {len(left)} of its processes could not be ended"
    os.write(1, json.dumps(answer).encode())


# ------------------------------------------------------------------ supervisor


def supervise(job: dict) -> dict:
    layers, limits = job["layers"], job["limits"]
    job["uid"] = None
    if "subreaper" in layers:
        with walls.building("subreaper"):
            walls.call("prctl", 36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans, daemons too, become ours
            os.stat("/proc/self/stat")
    if "user" in layers:
        with walls.building("user"):
            job["uid"] = walls.private_id()
    job["tasks"] = tasks(job)
    if "namespaces" in layers:
        with walls.building("namespaces"):
            walls.leave_host()
    token = os.urandom(32).hex().encode()
    ends = {name: os.pipe() for name in ("output", "verdict", "status")}
    deadline = time.monotonic() + limits["wall"]
    warden = os.fork()
    if not warden:
        try:
            guard(job, token, {name: pair[1] for name, pair in ends.items()})
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    groups.append(warden)
    for _, write_end in ends.values():
        os.close(write_end)
    texts, stopped = watch(job, {name: pair[0] for name, pair in ends.items()}, deadline)
    return conclude(limits, texts, stopped, token)


def watch(job: dict, ends: dict[str, int], deadline: float) -> tuple[dict[str, bytes], dict | None]:
    """What came through each pipe until the warden left; and why all was stopped before, if it was."""
    names = {end: name for name, end in ends.items()}
    most = {"output": job["limits"]["output"] + 1, "verdict": 4096, "status": 4096}
    texts = dict.fromkeys(ends, b"")

    def read(end: int) -> int:
        chunk = os.read(end, 65536)
        # What is over the limit is read and dropped: a program that writes much must not block.
        texts[names[end]] += chunk[: most[names[end]] - len(texts[names[end]])]
        return len(chunk)

    waiting, next_look, stopped = {0, *names}, 0.0, None
    while ends["status"] in waiting and not stopped:
        for end in select.select(list(waiting), [], [], TICK_S)[0]:
            if end == 0:
                stopped = {"status": "killed", "detail": "the caller has gone"}
            elif not read(end):
                waiting.discard(end)
        now = time.monotonic()
        if now >= deadline:
            stopped = {"status": "timeout", "detail": f"wall time over {job['limits']['wall']:g} s"}
        elif now >= next_look:
            stopped = stopped or excess(job)
            next_look = time.monotonic() + TICK_S
    end_all()
    for end in waiting - {0}:
        os.set_blocking(end, False)
        with contextlib.suppress(BlockingIOError):
            while read(end):
                pass
    return texts, stopped


def excess(job: dict) -> dict | None:
    """Limits that the kernel keeps for each process or file, kept here for all of them together."""
    limits, kin = job["limits"], family()
    if sum(map(resident, kin)) > limits["memory"]:
        return {"status": "memory", "detail": memory_detail(limits)}
    if len(kin) > limits["processes"] + 2:
        return {"status": "killed", "detail": f"more than {limits['processes']} processes"}
    if "namespaces" not in job["layers"] and occupied(job["folder"]) > limits["file_bytes"]:
        return {"status": "killed", "detail": f"files over {limits['file_bytes'] / MIB:g} MiB"}
    return None


def conclude(limits: dict, texts: dict[str, bytes], stopped: dict | None, token: bytes) -> dict:
    """The answer. Only the token, and nothing but the token, is a pass."""
    status, verdict = texts["status"], texts["verdict"]
    if status[:1] == b"R":
        raise walls.Refused(*json.loads(status[1:]))
    kind, detail = verdict[:1], verdict[1:].decode(errors="replace")
    code, used = json.loads(status) if status else (None, 0.0)
    if stopped:
        answer = stopped
    elif code is None:
        answer = {"status": "killed", "detail": "with the process that watched it"}
    elif os.WIFSIGNALED(code):
        number = os.WTERMSIG(code)
        if number == signal.SIGXCPU or (number == signal.SIGKILL and used >= limits["cpu"]):
            answer = {"status": "timeout", "detail": f"CPU time over {limits['cpu']} s"}
        else:
            name = signal.Signals(number).name if number in signal.valid_signals() else number
            answer = {"status": "killed", "detail": f"by {name}"}
    elif verdict == token and code == 0:
        answer = {"status": "passed", "detail": "reached its end"}
    elif kind == b"M":
        answer = {"status": "memory", "detail": memory_detail(limits)}
    elif kind == b"F":
        answer = {"status": "failed", "detail": detail}
    else:
        how = detail if kind == b"X" else f"exit code {os.WEXITSTATUS(code)}"
        answer = {"status": "exited", "detail": f"left before its end, {how}"}
    cut = len(texts["output"]) > limits["output"]
    output = texts["output"][: limits["output"]].decode(errors="replace") + ("\n[output cut here]" if cut else "")
    return answer | {"output": output}


def memory_detail(limits: dict) -> str:
    return f"memory over {limits['memory'] / MIB:g} MiB"


def tasks(job: dict) -> int | None:
    """RLIMIT_NPROC, which counts all processes and threads of a user; None where it would not hold."""
    if job["uid"] is not None:
        return job["limits"]["processes"]
    if os.getuid() == 0 or sys.platform != "linux":
        return None  # root is exempt; elsewhere the user's other processes cannot be counted
    if "namespaces" in job["layers"] and tuple(map(int, os.uname().release.split(".")[:2])) >= (5, 14):
        return job["limits"]["processes"] + 2  # counted for each user namespace: supervisor and warden too
    others = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                others += len(os.listdir(f"/proc/{pid}/task"))
    return others + job["limits"]["processes"]


groups: list[int] = []


def family() -> list[int]:
    """Every process that comes from this one, as /proc shows it; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
                # The name of a program, in brackets, may hold anything.
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(pid))
    found, todo = [], [os.getpid()]
    while todo:
        own = children.get(todo.pop(), [])
        found += own
        todo += own
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0  # it has just ended


def occupied(folder: str) -> float:
    """Bytes in the files below a folder; infinite for more files than a program may make."""
    total, entries, todo = 0, 0, [folder]
    while todo:
        with contextlib.suppress(OSError), os.scandir(todo.pop()) as listing:
            for entry in listing:
                entries += 1
                if entries > walls.MOST_FILES:
                    return float("inf")
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
    return total


def end_all() -> list[int]:
    """Kill and reap all that came from this process; returned is what would not die within some seconds.

    All are stopped before the first is killed, so that none can fork in between. Without /proc only
    the warden's process group is reached.
    """
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        kin: set[int] = set()
        while fresh := set(family()) - kin:
            kin |= fresh
            for pid in fresh:
                send(pid, signal.SIGSTOP)
        for pid in kin:
            send(pid, signal.SIGKILL)
        for group in groups:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            groups.clear()
            return []
        time.sleep(0.002)
    return family()


def send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


# ------------------------------------------------------------------ warden and runner


def guard(job: dict, token: bytes, ends: dict[str, int]) -> None:
    """The warden's life: build the root folder, start the runner, report how it ended."""
    os.setsid()
    keep_only([*ends.values(), 2])
    box = os.path.realpath(job["folder"])
    try:
        if "subreaper" in job["layers"]:
            with walls.building("subreaper"):
                walls.call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if "namespaces" in job["layers"]:
            with walls.building("namespaces"):
                uid, gid = (os.getuid(), os.getgid()) if job["uid"] is None else (job["uid"],) * 2
                walls.own_root(box, job["limits"]["file_bytes"], uid, gid)
                box = walls.BOX
        elif job["uid"] is not None:
            with walls.building("user"):
                os.chown(box, job["uid"], job["uid"])
    except walls.Refused as error:
        refuse(ends["status"], error)
    runner = os.fork()
    if not runner:
        try:
            confine(job, box, ends)
        except walls.Refused as error:
            refuse(ends["status"], error)
        except Exception as error:
            refuse(ends["status"], walls.Refused("limits", f"{type(error).__name__}: {error}"))
        os.close(ends["status"])
        execute(job["program"], token, ends["verdict"])
    for name in ("output", "verdict"):
        os.close(ends[name])
    keep_only([ends["status"]])
    while True:  # process 1 of a namespace inherits its orphans
        pid, code, used = os.wait4(-1, 0)
        if pid == runner:
            os.write(ends["status"], json.dumps([code, used.ru_utime + used.ru_stime]).encode())
            os._exit(0)


def refuse(end: int, error: walls.Refused) -> None:
    os.write(end, b"R" + json.dumps([error.layer, str(error)[:500]]).encode())
    os._exit(1)


def keep_only(handles: list[int]) -> None:
    start = 0
    for handle in sorted(handles):
        os.closerange(start, handle)
        start = handle + 1
    os.closerange(start, max(1024, start))


def confine(job: dict, box: str, ends: dict[str, int]) -> None:
    """What the runner gives up, rights last."""
    layers = job["layers"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(ends["output"], 1)
    os.dup2(ends["output"], 2)
    os.close(ends["output"])
    os.chdir(box)
    walls.limit(job["limits"], job["tasks"])
    if job["uid"] is not None:
        with walls.building("user"):
            walls.become(job["uid"], box)
    if sys.platform == "linux":
        walls.drop_rights()
    if "landlock" in layers:
        with walls.building("landlock"):
            walls.landlock(box)
    if "seccomp" in layers:
        with walls.building("seccomp"):
            walls.seccomp(alone="namespaces" in layers)
    if "hook" in layers:
        walls.hook(box)


def execute(program: str, token: bytes, verdict: int) -> None:
    """Run the program and tell how it ended; the token only if it reached its end. Does not return."""
    # What is needed afterwards is at hand before: a program may replace any of it where others look it up.
    write, leave, getpid, own = os.write, os._exit, os.getpid, os.getpid()
    memory, exited, anything = MemoryError, SystemExit, BaseException
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.argv = ["program"]
    sys.path = [path for path in sys.path if path != os.path.dirname(__file__)]
    os.environ.clear()
    message = b"Fnot ended"
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
        message = token
    except memory:
        message = b"M"
    except exited as error:
        message = b"X" + line(f"sys.exit({error.code!r})")
    except anything as error:
        message = b"F" + line(describe(error))
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except anything:
            pass
        if getpid() == own:  # not a child that the program made
            write(verdict, message)
        leave(0 if message is token else 1)


def describe(error: BaseException) -> str:
    """One line, with the last line number of the program where there is one."""
    try:
        words = f"{type(error).__name__}: {error}".strip(": ")
    except BaseException:
        words = "an error that cannot be shown"
    numbers = [number for frame, number in traceback.walk_tb(error.__traceback__)
               if frame.f_code.co_filename == "<program>"]  # fmt: skip
    return f"{words} (line {numbers[-1]})" if numbers else words


def line(text: str) -> bytes:
    return " ".join(text.split()).encode(errors="replace")[:300]


if __name__ == "__main__":
    main()
