"""The inside of :mod:`prunelib.tasks.sandbox`: puts itself behind walls, then runs one program.

Run by a bare interpreter; imports only the standard library and nothing of the
package. A job comes in on standard input (JSON), the verdict leaves by a pipe of its
own. A wall that the kernel refuses ends the job before anything of the program has run.
"""

import builtins
import ctypes
import json
import os
import platform
import resource
import struct
import sys

# Numbers of the kernel's interface: linux/landlock.h, linux/seccomp.h, linux/filter.h, asm/unistd.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read file, read folder
RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # of files, by version
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER, DUMPABLE = 38, 22, 2, 4
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
THREAD = 0x00010000  # CLONE_THREAD: a thread of this process, not a new one
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Denied after the start, by what they could do outside; the program gets "operation not permitted".
DENIED = {
    "x86_64": {
        "rights": (90, 91, 92, 93, 94, 132, 188, 189, 190, 197, 198, 199, 235, 260, 261, 268, 280, 452, 463, 466),
        "network": (41,), "processes": (57, 58, 59, 322), "signals": (62, 129, 200, 234, 297, 424, 434, 438),
        "other processes": (101, 272, 298, 308, 310, 311, 312, 321, 323, 425, 426, 427, 440, 448),
        "the system": (155, 161, 163, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 227, 246, 248, 249, 250,
                       304, 305, 313, 320, 428, 429, 430, 431, 432, 433, 442),
    },
    "aarch64": {
        "rights": (5, 6, 7, 14, 15, 16, 52, 53, 54, 55, 88, 452, 463, 466),
        "network": (198,), "processes": (221, 281), "signals": (129, 130, 131, 138, 240, 424, 434, 438),
        "other processes": (97, 117, 241, 268, 270, 271, 272, 280, 282, 425, 426, 427, 440, 448),
        "the system": (39, 40, 41, 51, 89, 104, 105, 106, 112, 142, 161, 162, 170, 171, 217, 218, 219, 224, 225, 264,
                       265, 266, 273, 294, 428, 429, 430, 431, 432, 433, 442),
    },
}  # fmt: skip
CLONE, CLONE3, PRLIMIT = {"x86_64": (56, 435, 302), "aarch64": (220, 435, 261)}.get(platform.machine(), (0, 0, 0))

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A wall that cannot be built here."""


def main() -> None:
    job = json.loads(sys.stdin.readline())
    out = job["verdict"]
    try:
        build(job)
    except (Refused, OSError, ValueError) as error:
        os.write(out, f"refused {error}".encode())
        return
    os.write(out, b"ready\n")
    execute(job, out)


def build(job: dict) -> None:
    """All walls, outermost first."""
    # As root: no capability is left, and without a new program none comes back.
    if libc.capset(struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6)):
        raise Refused("capabilities cannot be given up (capset)")
    limit = resource.setrlimit
    limit(resource.RLIMIT_CORE, (0, 0))
    limit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    limit(resource.RLIMIT_FSIZE, (job["file"], job["file"]))
    limit(resource.RLIMIT_NOFILE, (64, 64))
    limit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise Refused("privileges cannot be given up (prctl)")
    libc.prctl(DUMPABLE, 0, 0, 0, 0)
    landlock(job["folder"])
    seccomp()


def landlock(folder: str) -> None:
    """Files: the interpreter's own are read, ``folder`` is read and written, everything else is out of reach."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        raise Refused("the kernel has no Landlock (Linux 5.13 or later, not switched off)")
    rights = max(mask for at, mask in RIGHTS.items() if at <= version)
    # Also TCP from version 4, signals and abstract sockets from version 6.
    attributes = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(CREATE_RULESET, attributes, size, 0)
    if rules < 0:
        raise Refused("Landlock takes no rules")
    readable = {os.path.dirname(os.path.realpath(os.__file__)), sys.base_prefix + "/lib", "/usr/lib", "/lib", "/lib64",
                "/usr/share/zoneinfo"}
    for path, access in [*((path, READ) for path in readable), (folder, rights)]:
        if os.path.isdir(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", access & rights, place), 0):
                raise Refused("Landlock takes no rule")
            os.close(place)
    if libc.syscall(RESTRICT_SELF, rules, 0):
        raise Refused("Landlock cannot be switched on")
    os.close(rules)


def seccomp() -> None:
    """System calls: no network, no new process or program, no signal, nothing of other processes or the system.

    Nor rights, owners and times of files, which Landlock leaves alone.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise Refused(f"no list of system calls for {machine}")

    def step(code, yes, no, value):
        return struct.pack("=HBBI", code, yes, no, value)

    load, equal, some_bits, end = 0x20, 0x15, 0x45, 0x06
    lines = [step(load, 0, 0, 4), step(equal, 1, 0, MACHINES[machine]), step(end, 0, 0, KILL), step(load, 0, 0, 0)]
    if machine == "x86_64":  # its second set of numbers
        lines += [step(0x35, 0, 1, 0x40000000), step(end, 0, 0, KILL)]
    for number in sorted({number for group in DENIED[machine].values() for number in group}):
        lines += [step(equal, 0, 1, number), step(end, 0, 0, EPERM)]
    # The C library falls back on clone, whose flags can be looked at here.
    lines += [step(equal, 0, 1, CLONE3), step(end, 0, 0, ENOSYS)]
    lines += [step(equal, 0, 4, CLONE), step(load, 0, 0, 16), step(some_bits, 0, 1, THREAD), step(end, 0, 0, ALLOW),
              step(end, 0, 0, EPERM)]  # fmt: skip
    lines += [step(equal, 0, 4, PRLIMIT), step(load, 0, 0, 16), step(equal, 0, 1, 0), step(end, 0, 0, ALLOW),
              step(end, 0, 0, EPERM), step(end, 0, 0, ALLOW)]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(lines))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    if libc.prctl(SET_SECCOMP, FILTER, program, 0, 0):
        raise Refused("system calls cannot be filtered (seccomp)")


def execute(job: dict, out: int) -> None:
    """Run the program, then its test; write the verdict, one line: a status and what there is to say."""
    own = dict(builtins.__dict__)  # the test gets these, whatever the program does to its own
    # Kept for the same reason: what is used after the program ran.
    write, kind, token = os.write, type, f"\npassed {job['token']}".encode()
    program, test = compile_both(job["program"], job["test"])
    names, ended = {"__name__": "__main__", "__builtins__": builtins}, "the program"
    try:
        exec(program(), names)
        ended = "the test"
        exec(test(), {**names, "__builtins__": own})
    except MemoryError:
        verdict = b"\nmemory over the memory limit"
    except SystemExit:
        verdict = f"\nexited {ended} left by itself".encode()
    except BaseException as error:
        reason = f"{kind(error).__name__}: {error}".replace("\n", " ").rstrip(": ")
        verdict = f"\nfailed {ended}: {reason[:200]}".encode(errors="replace")
    else:
        verdict = token
    write(out, verdict)


def compile_both(program: str, test: str):
    """Functions that compile them; a syntax error belongs to whichever has it."""
    return (lambda: compile(program, "program", "exec")), (lambda make=compile: make(test, "test", "exec"))


if __name__ == "__main__":
    main()
