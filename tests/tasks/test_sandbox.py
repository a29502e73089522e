"""Programs that mean harm: each is contained, said to be so, and leaves the machine as it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunelib.errors import PrunelibError
from prunelib.tasks.sandbox import box
from prunelib.tasks.sandbox.box import Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
SMALL = Limits(cpu=1, wall=2.0, memory=128 * 2**20)
MARK = "prunelib-hostile-mark"
# {outside}: a folder with a file `kept`; {caller}: this process; {port}: one that nobody listens on.
BY_END = {
    ("timed out", "time limit"): {
        "endless loop": "while True: pass",
        "sleep": "import time; time.sleep(60)",
        "sleep on a lock": "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
        "pause": "import signal; signal.pause()",
        "wait for a signal": "import signal; signal.sigwait([signal.SIGUSR1])",
        "recursion": "import sys; sys.setrecursionlimit(10**9)\ndef g(): return g()\ng()",
        "a huge number": "x = 9 ** 9 ** 9",
        "a regular expression": "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "fork bomb that ignores errors": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "signal trapping": (
            "import signal\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n"
            "  except (OSError, ValueError): pass\nwhile True: pass"),
        "a cancelled alarm": (
            "import signal, time; signal.setitimer(signal.ITIMER_REAL, 0); signal.alarm(0); time.sleep(60)"),
    },
    ("memory", "over the memory limit"): {
        "memory hog": "x = []\nwhile True: x.append(bytearray(2**24))",
        "one huge allocation": "x = bytearray(2**40)",
    },
    ("output", "wrote more than 65536 bytes"): {
        "huge output": "while True: print('x' * 10000)",
        "huge output on the error stream": "import sys\nwhile True: sys.stderr.write('x' * 10000)",
    },
    ("failed", "the test: AssertionError"): {
        "patched builtins": (
            "import builtins\nbuiltins.AssertionError = builtins.abs = builtins.all = lambda *a: True\n"
            "builtins.isinstance = lambda *a: True\ndef f(): return 2"),
        "exec that does nothing": "import builtins; builtins.exec = print\ndef f(): return 2",
        "compile that gives another test": (
            "import builtins; real = compile\nbuiltins.compile = lambda *a: real('1', 'x', 'exec')\n"
            "def f(): return 2"),
        "exec of the judge's own names": (
            "import sys\nsys.modules['builtins'].__dict__['exec'] = print\n"
            "sys._getframe(1).f_globals['exec'] = print\ndef f(): return 2"),
        "walking frames for the judge": (
            "import sys\nframe = sys._getframe()\n"
            "while frame.f_back: frame = frame.f_back; print([k for k, v in frame.f_locals.items() if v == "
            "b'passed' or 'token' in k])\ndef f(): return 2"),
        "asserts switched off": "import sys\nsys.excepthook = lambda *a: None\nsys.flags = None\ndef f(): return 2",
        "tracing the test": (
            "import sys\ndef jump(frame, event, arg):\n  frame.f_trace_lines = True\n  return jump\n"
            "sys.settrace(jump); sys.setprofile(lambda *a: None)\ndef f(): return 2"),
    },
    ("failed", "claimed a pass that was none"): {
        "a pass on the pipe": (
            "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'\\npassed 0')\n  except OSError: pass\n"
            "os._exit(0)"),
        "a pass on the pipe, then more": (
            "import os\nfor fd in range(3, 64):\n"
            "  try: os.write(fd, b'\\nended\\n\\ntested\\n\\npassed ' + b'0' * 32)\n  except OSError: pass\n"
            "os._exit(0)"),
    },
    ("exited", "left by itself"): {
        "os._exit": "import os; os._exit(0)",
        "sys.exit": "import sys; sys.exit(0)",
        "leaving in a thread": (
            "import threading, os; threading.Timer(0.01, os._exit, [0]).start()\nimport time; time.sleep(0.5)"),
        "a pass on the output": "print('passed'); import os; os._exit(0)",
        "closing every handle": "import os; os.closerange(0, 64)",
        "NUL in the program": "x = '\\0'; raise SystemExit",
    },
    ("killed", "by SIG"): {
        "a crash": "import ctypes; ctypes.string_at(0)",
        "other numbers for calls": "import ctypes; assert ctypes.CDLL(None).syscall(0x40000000 + 39) > 0",
    },
    ("failed", "Permission denied"): {
        "writing outside": "open('{outside}/written', 'w')",
        "writing here": "open('note', 'w').write('x')",
        "writing to shared memory": "open('/dev/shm/x', 'wb').write(bytes(2**20))",
        "writing to a device": "open('/dev/null', 'w').write('x')",
        "appending": "open('{outside}/kept', 'a')",
        "an unnamed file": "import os; os.open('/tmp', os.O_TMPFILE | os.O_RDWR, 0o600)",
        "removing a tree": "import shutil; shutil.rmtree('{outside}')",
        "reading a file of the user": "print(open('{outside}/kept').read())",
        "reading passwords": "print(open('/etc/passwd').read())",
        "listing a folder": "import os; print(os.listdir('{outside}'))",
        "the parent's environment": "import os; print(open(f'/proc/{os.getppid()}/environ').read())",
        "its own memory": "f = open('/proc/self/mem', 'r+b')",
    },
    ("failed", "Operation not permitted"): {
        "fork bomb": "import os\nwhile True: os.fork()",
        "a process by spawn": "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "a process by vfork": "import subprocess; subprocess.run(['/bin/true'])",
        "a process by multiprocessing": (
            "import multiprocessing as m; p = m.get_context('fork').Process(target=print); p.start()"),
        "cutting": "import os; os.truncate('{outside}/kept', 0)",
        "cutting by a handle": "import os; os.ftruncate(2, 0)",
        "a link": "import os; os.symlink('{outside}/kept', 'x')",
        "a hard link": "import os; os.link('{outside}/kept', '{outside}/more')",
        "renaming": "import os; os.rename('{outside}/kept', '{outside}/more')",
        "a folder": "import os; os.mkdir('{outside}/d')",
        "deep folders": "import os\nfor _ in range(1000): os.mkdir('d' * 250); os.chdir('d' * 250)",
        "a folder nobody reads": "import os; os.mkdir('d', 0o300)",
        "a pipe": "import os; os.mkfifo('{outside}/pipe')",
        "an anonymous file": "import os; f = os.memfd_create('x'); [os.write(f, bytes(2**20)) for _ in range(600)]",
        "changing rights outside": "import os; os.chmod('{outside}', 0)",
        "changing the owner": "import os; os.chown('{outside}', 1, 1)",
        "changing times": "import os; os.utime('{outside}/kept', (0, 0))",
        "an attribute": "import os; os.setxattr('{outside}/kept', 'user.x', b'x')",
        "removing outside": "import os; os.remove('{outside}/kept')",
        "another root": "import os; os.chroot('{outside}')",
        "network": "import socket; socket.create_connection(('127.0.0.1', {port}))",
        "network by datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "a pair of sockets": (
            "import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'x', "
            "'{outside}/socket')"),
        "another user": "import os; os.setuid(65534)",
        "the caller's processors": "import os; os.sched_setaffinity({caller}, [0])",
        "the caller's schedule": "import os; os.sched_setscheduler({caller}, os.SCHED_BATCH, os.sched_param(0))",
        "the caller's priority": "import os; os.setpriority(os.PRIO_PROCESS, {caller}, 19)",
        "its own priority": "import os; os.nice(-5)",
        "killing the parent": "import os; os.kill(os.getppid(), 9)",
        "killing the caller": "import os; os.kill({caller}, 9)",
        "killing the group": "import os; os.killpg(0, 9)",
        "killing everything": "import os; os.kill(-1, 9)",
        "a signal by a handle": "import signal, os; signal.pidfd_send_signal(os.pidfd_open({caller}), 9)",
        "signals by a file": (
            "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETOWN, {caller}); fcntl.fcntl(1, 10, 9); fcntl.fcntl(1, "
            "fcntl.F_SETFL, os.O_ASYNC)"),
        "leases": "import fcntl; fcntl.fcntl(0, fcntl.F_SETLEASE, 1)",
        "locks": "import fcntl; fcntl.flock(1, fcntl.LOCK_EX)",
        "typing into the terminal": "import fcntl; fcntl.ioctl(1, 0x5412, b'x')",
        "a session of its own": "import os; os.setsid()",
        "limiting the parent": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "daemonised child": (
            "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
            "    time.sleep(3); open('{outside}/written', 'w')"),
        "another program": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo {mark}'])",
        "another program by a handle": "import os; os.execve(os.open('/usr/lib/os-release', os.O_RDONLY), ['x'], {})",
    },
    ("failed", "the program: AssertionError"): {
        "a mount": "import ctypes; assert ctypes.CDLL(None).mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0",
        "the caller's memory": (
            "import ctypes\n"
            "class V(ctypes.Structure): _fields_ = [('b', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
            "b = ctypes.create_string_buffer(8); v = V(ctypes.addressof(b), 8)\n"
            "assert ctypes.CDLL(None).process_vm_readv({caller}, ctypes.byref(v), 1, ctypes.byref(v), 1, 0) > 0"),
        "tracing the caller": "import ctypes; assert ctypes.CDLL(None).ptrace(16, {caller}, 0, 0) == 0",
        "shared memory of System V": "import ctypes; assert ctypes.CDLL(None).shmget(0, 2**29, 0o1600) >= 0",
        "messages of System V": "import ctypes; assert ctypes.CDLL(None).msgget(0, 0o1600) >= 0",
        "semaphores of System V": "import ctypes; assert ctypes.CDLL(None).semget(0, 10, 0o1600) >= 0",
        "removing others' shared memory": "import ctypes; assert ctypes.CDLL(None).shmctl(0, 0, None) == 0",
        "a POSIX queue": (
            "import ctypes; assert ctypes.CDLL('librt.so.1').mq_open(b'/prunelib', 0o102, 0o600, None) >= 0"),
        "kernel keys": "import ctypes; assert ctypes.CDLL(None).syscall(248, b'user', b'x', b'y', 1, -3) > 0",
        "an io ring": (
            "import ctypes; assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(200)) >= 0"),
        "a BPF program": (
            "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, ctypes.create_string_buffer(100), 100) >= 0"),
        "page faults of its own": "import ctypes; assert ctypes.CDLL(None).syscall(323, 0) >= 0",
        "performance counters": (
            "import ctypes; assert ctypes.CDLL(None).syscall(298, ctypes.create_string_buffer(120), 0, -1, -1, "
            "0) >= 0"),
        "a namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
        "the caller's disk priority": (
            "import ctypes; assert ctypes.CDLL(None).syscall(251, 1, {caller}, 3 << 13) == 0"),
        "a queued signal": "import ctypes; assert ctypes.CDLL(None).sigqueue({caller}, 9, 0) == 0",
        "no longer dying with its parent": "import ctypes; assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
        "core dumps": "import ctypes; assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0",
        "a shell": "import os; assert os.system('echo {mark}') == 0",
        "walking memory for the test": (
            "import gc\n"
            "assert any('assert all' in str(one)[:2000] for one in gc.get_objects() if isinstance(one, (str, "
            "bytes, dict)) and 'hostile' not in str(one)[:200])\ndef f(): return 1"),
    },
    ("failed", "Cannot allocate memory"): {
        "memory mapped": "import mmap; x = [mmap.mmap(-1, 2**28) for _ in range(64)]",
    },
    ("failed", "can't start new thread"): {
        "thread bomb": (
            "import threading, time\n"
            "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"),
    },
    ("failed", "No usable temporary directory"): {
        "writing to /tmp": "import tempfile; tempfile.TemporaryFile().write(b'x')",
    },
    ("failed", "KeyError: 'HOME'"): {
        "home from the environment": "import os; print(open(os.environ['HOME'] + '/.bashrc').read())",
    },
    ("failed", "the program: "): {
        "a crash by the compiler": "eval('(' * 10**6)",
        "home by the user's entry": "import os, pwd; print(os.listdir(pwd.getpwuid(os.getuid()).pw_dir))",
    },
    ("failed", "ValueError"): {
        "raising its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    },
    ("failed", "the program: passed: x"): {
        "an exception with a false name": "class passed(Exception): pass\nraise passed('x')",
    },
    ("failed", "the program: E"): {
        "an exception that cannot be shown": "class E(Exception):\n  def __str__(self): 1 / 0\nraise E",
    },
    ("failed", "the program: ValueError: a passed 0"): {
        "an exception with line breaks": "raise ValueError('a\\npassed 0\\n')",
    },
    ("failed", "SyntaxError"): {
        "syntax error": "def f(:",
    },
    ("failed", "the test: NameError"): {
        "leaving at exit": "import atexit, os; atexit.register(os._exit, 0)",
    },
}  # fmt: skip
"""Programs by how they end: status and a part of the detail. A false assertion means that the kernel refused a call."""
HOSTILE = {name: (program, *end) for end, programs in BY_END.items() for name, program in programs.items()}
TEST = "assert all([abs(f()) == 1])"


def test_there_are_many_and_each_has_a_name_of_its_own():
    assert len(HOSTILE) == sum(map(len, BY_END.values())) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained_and_reported(name, tmp_path, monkeypatch):
    program, status, detail = HOSTILE[name]
    kept = tmp_path / "kept"
    kept.write_text("secret")
    kept.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    before, memory, ours = _processes(), _kernel_objects(), _own_state()
    for word, value in {"outside": tmp_path, "port": _closed_port(), "mark": MARK, "caller": os.getpid()}.items():
        program = program.replace(f"{{{word}}}", str(value))
    found = box.run(f"{MARK!r}\n" + program, TEST, SMALL)
    assert (found.status, detail in found.detail) == (status, True), found
    assert not found.passed and "secret" not in found.output and "\n" not in found.detail
    assert len(found.output) <= SMALL.output
    assert kept.read_text() == "secret" and oct(kept.stat().st_mode)[-3:] == "600"
    assert [file.name for file in tmp_path.iterdir()] == ["kept"] and oct(tmp_path.stat().st_mode)[-3:] == "700"
    assert _kernel_objects() == memory and _own_state() == ours
    # nothing of it is left: no new process of the sandbox
    deadline = time.monotonic() + 1
    while (left := _processes() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, left
    assert found.seconds < SMALL.wall + 3  # with the start of the interpreter on a busy machine


def _processes() -> set[int]:
    """Running programs of this checkout's sandbox, known by the script they were started with."""
    found, script = set(), str(Path(box.__file__).with_name("jail.py")).encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if script in (entry / "cmdline").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def _kernel_objects() -> list[str]:
    """Shared memory, message queues and semaphores of the machine, and what a program here would call its own.

    They would outlive the program.
    """
    tables = [Path("/proc/sysvipc") / name for name in ("shm", "msg", "sem")]
    rows = [row.split()[1] for table in tables if table.is_file() for row in table.read_text().splitlines()[1:]]
    return rows + [str(path) for path in (Path("/dev/shm/x"), Path("/dev/mqueue/prunelib")) if path.exists()]


def _own_state() -> tuple:
    """What a program could change about this process from outside."""
    return os.sched_getaffinity(0), os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)


def _closed_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_right_program_passes_and_a_wrong_one_fails():
    found = box.run("def f(): return -1\nprint('hello')", TEST)
    assert found.passed and found.output == "hello\n" and found.detail == ""
    wrong = box.run("def f(): return 3", TEST)
    assert wrong.status == "failed" and wrong.detail == "the test: AssertionError"


def test_what_programs_need_works():
    program = """
import abc, array, ast, base64, bisect, calendar, cmath, collections, contextlib, copy, csv, dataclasses, datetime
import decimal, difflib, enum, fractions, functools, hashlib, heapq, inspect, io, itertools, json, math, numbers
import operator, os, pprint, queue, random, re, secrets, statistics, string, struct, sys, textwrap, threading, time
import traceback, types, typing, unicodedata, unittest, uuid, warnings, zlib
done = []
thread = threading.Thread(target=lambda: done.append(hashlib.md5(b'').hexdigest()))
thread.start(); thread.join()
assert done and random.random() < 1 and time.time() > 0 and os.getcwd() == '/' and os.getpid() > 0
with io.StringIO() as text:
    print('kept', file=text); assert text.getvalue() == 'kept\\n'
time.sleep(0.01)
assert sum(range(10**6)) == 499999500000 and len(bytearray(10**7)) == 10**7
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool: assert list(pool.map(abs, [-1, 2])) == [1, 2]
try: open('/etc/passwd')
except OSError: done.append('refused')
assert done[-1] == 'refused'
"""
    found = box.run(program)
    assert found.passed, found


def test_the_environment_is_empty():
    found = box.run("import os; print(sorted(os.environ))")
    assert found.passed and not any(name in found.output for name in ("HOME", "PATH", "TOKEN", "PYTHON"))


@pytest.mark.parametrize(("wall", "gone", "reason"), [
    ("if version < 1:", "if True:", "the kernel has no Landlock"),
    ("if libc.syscall(RESTRICT_SELF, rules, 0):", "if True:", "Landlock cannot be switched on"),
    ("if libc.prctl(SET_SECCOMP, FILTER, program, 0, 0):", "if True:", "system calls cannot be filtered"),
    ("if machine not in MACHINES:", "if True:", "no list of system calls"),
    ("if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):", "if True:", "privileges cannot be given up"),
    ("if libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0):", "if True:", "cannot be bound to its parent"),
    ("os.close(os.pidfd_open(os.getpid()))", "raise OSError('no pidfd')", "a process cannot be watched"),
])  # fmt: skip
def test_a_machine_without_a_wall_runs_nothing(wall, gone, reason, tmp_path, monkeypatch):
    """The wall is taken away in a copy of the inside; the program would have said so."""
    jail, whole = tmp_path / "jail.py", Path(box._jail()).read_text()
    assert wall in whole
    jail.write_text(whole.replace(wall, gone))
    monkeypatch.setattr(box, "_jail", lambda: str(jail))
    with pytest.raises(PrunelibError, match=f"not run here: .*{reason}") as caught:
        box.run("print('ran')")
    assert "\n" not in str(caught.value)


def test_an_inside_that_does_not_start_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "jail.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(box, "_jail", lambda: str(tmp_path / "jail.py"))
    with pytest.raises(PrunelibError, match="the sandbox did not start .exit code 3"):
        box.run("print('ran')")


CALLER = """
import signal
from prunelib.tasks.sandbox.box import Limits, run
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
run("import time; time.sleep(50)", limits=Limits(wall={wall}))
"""


def started(wall: float) -> tuple[subprocess.Popen, set[int]]:
    """A caller in a process of its own, and the sandbox's processes that it started."""
    before = _processes()
    caller = subprocess.Popen([sys.executable, "-c", CALLER.format(wall=wall)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(found := _processes() - before) < 2 and time.monotonic() < deadline:  # the supervisor and the program
        time.sleep(0.02)
    assert len(found) == 2
    return caller, found


def are_gone(processes: set[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while _processes() & processes:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_caller_that_ends_leaves_nothing(how):
    caller, processes = started(wall=60)
    caller.send_signal(how)
    caller.wait(timeout=20)
    assert are_gone(processes, within=5)


def test_the_wall_time_holds_while_the_caller_stands_still():
    caller, processes = started(wall=1.5)
    caller.send_signal(signal.SIGSTOP)
    try:
        # The supervisor ends the program; itself it waits for nobody.
        assert are_gone(processes, within=8)
    finally:
        caller.kill()
        caller.wait(timeout=20)


@pytest.mark.parametrize("which", ["the program", "its supervisor"])
def test_a_sandbox_that_is_killed_from_outside_is_no_pass(which):
    import threading

    before, found = _processes(), []
    thread = threading.Thread(target=lambda: found.append(box.run("import time; time.sleep(50)", TEST)))
    thread.start()
    deadline = time.monotonic() + 30
    while len(inside := sorted(_processes() - before)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # the program runs by now
    os.kill(inside[-1] if which == "the program" else inside[0], signal.SIGKILL)
    thread.join(timeout=20)
    assert not found[0].passed and are_gone(set(inside), within=5)
