"""The inside of :mod:`prunelib.tasks.sandbox.box`: a supervisor, and below it one program behind walls.

Run by a bare interpreter; imports only the standard library and nothing of the package.
A job comes in on standard input (JSON). The supervisor forks the program's process,
holds its wall time and its threads, says by a pipe of its own how it ended, and dies
with its caller; the program's process dies with the supervisor. A wall that the kernel
refuses ends the job before anything of the program has run.
"""

import builtins
import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import time

# Numbers of the kernel's interface: linux/landlock.h, linux/prctl.h, linux/seccomp.h, linux/filter.h, asm/unistd.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute (map code), read file, read folder
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # of files, by version
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER, DUMPABLE, DIE_WITH_PARENT, SET_NAME = 38, 22, 2, 4, 1, 15
ALLOW, EPERM, EACCES, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x0005000D, 0x00050026, 0x80000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# All that a program may ask of the kernel: {call: (number on x86_64, on aarch64)}, None where there is none.
ALLOWED = {
    # its open files; names and facts of files; nothing here changes a file
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "close_range": (436, 436), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None),
    "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    # memory
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233),
    # threads
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "membarrier": (324, 283), "sched_yield": (24, 124), "exit": (60, 93), "exit_group": (231, 94),
    # signals and timers of its own
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "restart_syscall": (219, 128),
    # time, chance, and who and where it is
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getrandom": (318, 278), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179),
    "getcpu": (309, 168),
}  # fmt: skip
# Allowed with some values of one argument (numbered from 0); the second set of glibc's and musl's threads.
PTHREAD = (0x3D0F00, 0x7D0F00)
CHECKED = {
    "clone": ((56, 220), 0, PTHREAD),
    "kill": ((62, 129), 0, "itself"),
    "tgkill": ((234, 131), 0, "itself"),
    "prlimit64": ((302, 261), 0, (0,)),
    "sched_getaffinity": ((204, 123), 0, (0,)),
    "prctl": ((157, 167), 0, (SET_NAME,)),
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 1030)),  # copies, close-on-exec, flags read: no locks, owners, signals, sizes
    "ioctl": ((16, 29), 1, (0x5401, 0x802C542A, 0x5450, 0x5451)),  # is it a terminal, close-on-exec
}  # fmt: skip
# Refused if one of some bits of an argument is set: opening to write, create, cut, or as a mere name; huge pages.
NOT_READING = 0x3 | 0x40 | 0x200 | 0x2000 | 0x200000 | 0x400000
MASKED = {"open": ((2, None), 1, NOT_READING), "openat": ((257, 56), 2, NOT_READING), "mmap": ((9, 222), 3, 0x40000)}
CLONE3 = 435  # its flags cannot be looked at; the C library falls back on clone

_LOOK_S = 0.02

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A wall that cannot be built here."""


def main() -> None:
    job = json.loads(sys.stdin.readline())
    try:
        die_with(job["caller"])
        threads_of(os.getpid())
        os.close(os.pidfd_open(os.getpid()))
    except (Refused, OSError) as error:
        os.write(job["verdict"], f"refused a process cannot be watched: {error}".encode())
        return
    end, supervisor = time.monotonic() + job["wall"], os.getpid()
    child = os.fork()
    if not child:
        os.close(job["report"])
        try:
            build(job, supervisor)
        except (Refused, OSError, ValueError) as error:
            os.write(job["verdict"], f"refused {error}".encode())
            os._exit(1)
        os.write(job["verdict"], b"ready\n")
        execute(job)
    for ours in (0, 1, 2, job["verdict"], job["answers"]):
        os.close(ours)
    why = watch(child, end, job["threads"])
    os.kill(child, signal.SIGKILL)  # not waited for yet: the number is still its own
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(job["report"], f"{code} {why}".encode())
    os._exit(0)


def die_with(parent: int) -> None:
    """This process is killed when its parent ends, or now if it already has."""
    if libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0):
        raise Refused("a process cannot be bound to its parent (prctl)")
    if os.getppid() != parent:
        os._exit(1)


def watch(child: int, end: float, threads: int) -> str:
    """Until the child is over: "" if by itself, else the limit it passed."""
    over = select.poll()
    over.register(os.pidfd_open(child), select.POLLIN)
    while not over.poll(1000 * max(0.0, min(_LOOK_S, end - time.monotonic()))):
        if time.monotonic() >= end:
            return "wall"
        if threads_of(child) > threads:
            return "threads"
    return ""


def threads_of(process: int) -> int:
    with open(f"/proc/{process}/stat", "rb") as stat:
        return int(stat.read().rpartition(b")")[2].split()[17])


def build(job: dict, supervisor: int) -> None:
    """All walls, outermost first."""
    # As root: no capability is left, and without a new program none comes back.
    if libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)):
        raise Refused("capabilities cannot be given up (capset)")
    die_with(supervisor)
    limit = resource.setrlimit
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        limit(none, (0, 0))
    limit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    limit(resource.RLIMIT_NOFILE, (64, 64))
    limit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise Refused("privileges cannot be given up (prctl)")
    libc.prctl(DUMPABLE, 0, 0, 0, 0)
    landlock()
    seccomp()


def landlock() -> None:
    """Files: the interpreter's own are read, everything else is out of reach, nothing is written."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        raise Refused("the kernel has no Landlock (Linux 5.13 or later, not switched off)")
    rights = max(mask for at, mask in RIGHTS.items() if at <= version)
    # Also TCP from version 4, signals and abstract sockets from version 6; the list of calls has none of these.
    attributes = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(CREATE_RULESET, attributes, size, 0)
    if rules < 0:
        raise Refused("Landlock takes no rules")
    readable = {
        os.path.dirname(os.path.realpath(os.__file__)),
        sys.base_prefix + "/lib",
        "/usr/lib",
        "/lib",
        "/lib64",
        "/usr/share/zoneinfo",
    }
    for path in readable:
        if os.path.isdir(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", READ, place), 0):
                raise Refused("Landlock takes no rule")
            os.close(place)
    if libc.syscall(RESTRICT_SELF, rules, 0):
        raise Refused("Landlock cannot be switched on")
    os.close(rules)


def seccomp() -> None:
    """System calls: those of the lists above, "operation not permitted" for all others.

    A call by another machine's numbers (32 bits, x32) kills the process.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise Refused(f"no list of system calls for {machine}")
    which = list(MACHINES).index(machine)

    def step(code, yes, no, value):
        return struct.pack("=HBBI", code, yes, no, value)

    load, equal, some_bits, end = 0x20, 0x15, 0x45, 0x06
    lines = [step(load, 0, 0, 4), step(equal, 1, 0, MACHINES[machine]), step(end, 0, 0, KILL), step(load, 0, 0, 0)]
    if machine == "x86_64":  # its second set of numbers
        lines += [step(0x35, 0, 1, 0x40000000), step(end, 0, 0, KILL)]
    for number in sorted(numbers[which] for numbers in ALLOWED.values() if numbers[which] is not None):
        lines += [step(equal, 0, 1, number), step(end, 0, 0, ALLOW)]
    for numbers, argument, values in CHECKED.values():  # the lower 32 bits: the kernel takes these as int too
        values = (os.getpid(),) if values == "itself" else values
        lines += [step(equal, 0, 2 + 2 * len(values), numbers[which]), step(load, 0, 0, 16 + 8 * argument)]
        for value in values:
            lines += [step(equal, 0, 1, value), step(end, 0, 0, ALLOW)]
        lines += [step(end, 0, 0, EPERM)]
    for numbers, argument, bits in MASKED.values():
        if numbers[which] is not None:
            lines += [
                step(equal, 0, 4, numbers[which]),
                step(load, 0, 0, 16 + 8 * argument),
                step(some_bits, 0, 1, bits),
                step(end, 0, 0, EACCES),
                step(end, 0, 0, ALLOW),
            ]
    lines += [step(equal, 0, 1, CLONE3), step(end, 0, 0, ENOSYS), step(end, 0, 0, EPERM)]
    code = ctypes.create_string_buffer(b"".join(lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    if libc.prctl(SET_SECCOMP, FILTER, program, 0, 0):
        raise Refused("system calls cannot be filtered (seccomp)")


def execute(job: dict) -> None:
    """Run the program, then its test; write the verdict, one line: a status and what there is to say.

    Everything that is used once the program runs is bound before it. The test arrives
    after the program has ended and the word for a pass after the test has, so neither lies
    about in a frame or in memory for the program to find.
    """
    run, make, kind, base, over, too_big, left = exec, compile, type, BaseException, os._exit, MemoryError, SystemExit
    read, write, flush, text, length = os.read, os.write, sys.stdout.flush, str, len
    trace, profile = sys.settrace, sys.setprofile
    size, answers, out = job["size"], job["answers"], job["verdict"]
    own = dict(builtins.__dict__)  # the test gets these, whatever the program does to its own
    names, ended = {"__name__": "__main__", "__builtins__": builtins}, "the program"

    def receive(size: int) -> bytes:
        got = b""
        while length(got) < size:
            got += read(answers, size - length(got)) or over(1)
        return got

    try:
        run(make(job.pop("program"), "program", "exec"), names)
        trace(None)
        profile(None)
        write(out, b"ended\n")
        source = receive(size)
        ended = "the test"
        run(make(source, "test", "exec"), {**names, "__builtins__": own})
        write(out, b"tested\n")
        verdict = b"passed " + receive(32)
    except too_big:
        verdict = b"memory over the memory limit"
    except left:
        verdict = f"exited {ended} left by itself".encode()
    except base as error:
        try:
            said = text(error)
        except base:
            said = ""
        reason = f"{kind(error).__name__}: {said}".replace("\n", " ").rstrip(": ")
        verdict = f"failed {ended}: {reason[:200]}".encode(errors="replace")
    try:  # noqa: SIM105 - the program may have changed contextlib
        flush()
    except base:
        pass
    write(out, b"\n" + verdict)
    over(0)


if __name__ == "__main__":
    main()
