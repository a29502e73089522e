"""Programs that mean harm: each is contained, said to be so, and leaves the machine as it was."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prunelib.errors import PrunelibError
from prunelib.tasks import sandbox
from prunelib.tasks.sandbox import Limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
SMALL = Limits(cpu=1, wall=2.0, memory=128 * 2**20)
MARK = "prunelib-hostile-mark"

HOSTILE = {
    "endless loop": ("while True: pass", "timed out", "processor time"),
    "sleep": ("import time; time.sleep(60)", "timed out", "wall time"),
    "memory hog": ("x = []\nwhile True: x.append(bytearray(2**24))", "memory", "memory limit"),
    "fork bomb": ("import os\nwhile True: os.fork()", "failed", "Operation not permitted"),
    "fork bomb that ignores errors": (
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "timed out", "processor time"),
    "writing outside": ("open('{outside}/written', 'w')", "failed", "Permission denied"),
    "changing rights outside": ("import os; os.chmod('{outside}', 0)", "failed", "Operation not permitted"),
    "removing outside": ("import os; os.remove('{outside}/kept')", "failed", "Permission denied"),
    "reading a file of the user": ("print(open('{outside}/kept').read())", "failed", "Permission denied"),
    "home from the environment": (
        "import os; print(open(os.environ['HOME'] + '/.bashrc').read())", "failed", "KeyError: 'HOME'"),
    "home by the user's entry": (
        "import os, pwd; print(os.listdir(pwd.getpwuid(os.getuid()).pw_dir))", "failed", "the program: "),
    "the parent's environment": (
        "import os; print(open(f'/proc/{{os.getppid()}}/environ').read())", "failed", "Permission denied"),
    "network": ("import socket; socket.create_connection(('127.0.0.1', {port}))", "failed", "not permitted"),
    "network by datagram": (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "failed", "not permitted"),
    "killing the parent": ("import os; os.kill(os.getppid(), 9)", "failed", "not permitted"),
    "killing the group": ("import os; os.killpg(0, 9)", "failed", "not permitted"),
    "limiting the parent": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "failed", "not permitted"),
    "raising its limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "failed", "the program: ValueError"),
    "huge output": ("while True: print('x' * 10000)", "output", "wrote more than 65536 bytes"),
    "huge file": ("f = open('x', 'wb')\nwhile True: f.write(bytes(2**20)); f.flush()", "failed", "File too large"),
    "many files": ("i = 0\nwhile True:\n  i += 1; open(str(i), 'wb').write(bytes(2**20))", "disk", "grew over"),
    "signal trapping": (
        "import signal\nfor s in range(1, 32):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass", "timed out", "time limit"),
    "daemonised child": (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(3); "
        "open('{outside}/written', 'w')", "failed", "Operation not permitted"),
    "another program": ("import os; os.execv('/bin/sh', ['sh', '-c', 'echo {mark}'])", "failed", "the program: "),
    "a shell": ("import os; assert os.system('echo {mark}') == 0", "failed", "the program: "),
    "os._exit": ("import os; os._exit(0)", "exited", "exit code 0"),
    "sys.exit": ("import sys; sys.exit(0)", "exited", "left by itself"),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = builtins.abs = builtins.all = lambda *a: True\n"
        "builtins.isinstance = lambda *a: True\ndef f(): return 2", "failed", "the test: AssertionError"),
    "asserts switched off": (
        "import sys\nsys.excepthook = lambda *a: None\nsys.flags = None\ndef f(): return 2", "failed", "the test: "),
    "a false verdict": (
        "import os\nfor fd in range(3, 20):\n  try: os.write(fd, b'\\npassed 0')\n"
        "  except OSError: pass\nos._exit(0)", "failed", "claimed a pass"),
    "a crash": ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV"),
    "a deep tree": ("import os\nwhile True: os.mkdir('d'); os.chdir('d')", "timed out", "time limit"),
    "a locked folder": ("import os; os.mkdir('d', 0); os.mkdir('e'); os.mkdir('e/f', 0)", "failed", "the test: "),
    "syntax error": ("def f(:", "failed", "SyntaxError"),
}  # fmt: skip
TEST = "assert all([abs(f()) == 1])"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained_and_reported(name, tmp_path, monkeypatch):
    program, status, detail = HOSTILE[name]
    kept = tmp_path / "kept"
    kept.write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = []
    original = sandbox.tempfile.mkdtemp
    monkeypatch.setattr(sandbox.tempfile, "mkdtemp", lambda **k: folders.append(made := original(**k)) or made)
    before = _processes()
    program = f"{MARK!r}\n" + program.format(outside=tmp_path, port=_closed_port(), mark=MARK)
    found = sandbox.run(program, TEST, SMALL)
    assert (found.status, detail in found.detail) == (status, True), found
    assert not found.passed and "secret" not in found.output and "\n" not in found.detail
    assert len(found.output) <= SMALL.output
    assert kept.read_text() == "secret" and [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert oct(tmp_path.stat().st_mode)[-3:] == "700"
    assert folders and not Path(folders[0]).exists()
    # nothing of it is left: no new process whose parent is this one or nobody
    deadline = time.monotonic() + 1
    while (left := _processes() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left
    assert found.seconds < SMALL.wall + 3  # with the start of the interpreter on a busy machine


def _processes() -> set[int]:
    """Running programs of the sandbox, known by the script they were started with."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"tasks/jail.py" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def _closed_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_a_right_program_passes_and_a_wrong_one_fails():
    found = sandbox.run("def f(): return -1\nprint('hello')", TEST)
    assert found.passed and found.output == "hello\n" and found.detail == ""
    wrong = sandbox.run("def f(): return 3", TEST)
    assert wrong.status == "failed" and wrong.detail == "the test: AssertionError"


def test_the_library_its_folder_and_threads_can_be_used():
    program = """
import collections, datetime, decimal, functools, hashlib, heapq, itertools, json, math, random, re, statistics, string
import threading, typing
open('note', 'w').write('kept')
assert open('note').read() == 'kept'
done = []
thread = threading.Thread(target=lambda: done.append(hashlib.md5(b'').hexdigest()))
thread.start(); thread.join()
assert done
"""
    assert sandbox.run(program).passed


def test_the_environment_is_empty():
    found = sandbox.run("import os; print(sorted(os.environ))")
    assert found.passed and not any(name in found.output for name in ("HOME", "PATH", "TOKEN", "PYTHON"))


def test_a_machine_without_a_wall_runs_nothing(tmp_path, monkeypatch):
    """The wall is taken away in a copy of the inside; the program would have written a file."""
    jail = tmp_path / "jail.py"
    jail.write_text(Path(sandbox._jail()).read_text().replace("if version < 1:", "if True:"))
    monkeypatch.setattr(sandbox, "_jail", lambda: str(jail))
    with pytest.raises(PrunelibError, match="not run here: the kernel has no Landlock"):
        sandbox.run("print('ran')")
    jail.write_text("raise SystemExit(3)")
    with pytest.raises(PrunelibError, match="the sandbox did not start .exit code 3"):
        sandbox.run("print('ran')")


def test_an_interrupted_caller_leaves_nothing(tmp_path):
    script = "from prunelib.tasks.sandbox import run; run('import time; time.sleep(50)')"
    caller = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 60
    before = _processes()
    while not (_processes() - before) and not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    caller.send_signal(2)
    caller.wait(timeout=20)
    assert not list(tmp_path.iterdir())
