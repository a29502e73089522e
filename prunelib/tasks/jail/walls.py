"""The walls around one program, each built by a function that raises :class:`Refused` where the kernel will not.

Part of the sandbox of ``prunelib/tasks/sandbox.py``, which says what they protect. All of it is
system calls through the C library (Linux), but for :func:`limit` and :func:`hook`.
"""

import contextlib
import ctypes
import os
import resource
import struct
import sys

BOX = "/box"  # the program's folder, where it has a root folder of its own
MOST_FILES = 1000
OPEN_FILES = 64
DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]

_NEW = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_BIND, _REC, _PRIVATE = 1 << 12, 1 << 14, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A layer cannot be built here; no line of the program has run."""

    def __init__(self, layer: str, reason: str):
        super().__init__(reason)
        self.layer = layer


@contextlib.contextmanager
def building(layer: str):
    try:
        yield
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise Refused(layer, f"{type(error).__name__}: {error}") from error


def call(function: str, *args) -> int:
    """A function of the C library; OSError where it fails."""
    words = [ctypes.c_long(a) if isinstance(a, int) else a.encode() if isinstance(a, str) else a for a in args]
    result = getattr(libc, function)(*words)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")
    return result


def readable() -> list[str]:
    """What a program may read: the interpreter with its standard library, and the system's libraries."""
    library = os.path.dirname(os.__file__)
    wanted = ["/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", sys.base_prefix, library]
    found: list[str] = []
    for path in sorted(filter(os.path.exists, wanted), key=len):
        if not any(path == other or path.startswith(other + "/") for other in found):
            found.append(path)
    return found


# ------------------------------------------------------------------ namespaces


def leave_host() -> None:
    """New namespaces for the network, IPC, the host name, and for processes from the next child on."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", sum(_NEW[name] for name in ("uts", "ipc", "pid", "net")) + (_NEW["user"] if uid else 0))
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def own_root(folder: str, size: int, uid: int, gid: int) -> None:
    """A root folder that holds :func:`readable`, read-only, some devices, and BOX, ``size`` bytes in memory.

    BOX belongs to ``uid`` and ``gid``. All is mounted on ``folder``, in this process and its children only.
    """
    os.umask(0o022)
    call("unshare", _NEW["mount"])
    call("mount", None, "/", None, _REC | _PRIVATE, None)
    call("mount", "tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in readable() + DEVICES:
        target = folder + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        call("mount", path, target, None, _BIND | _REC, None)
    os.mkdir(folder + BOX)
    os.mkdir(folder + "/tmp")
    # mount_setattr(AT_FDCWD, folder, AT_RECURSIVE, …): the C library may be older than the call.
    attributes = struct.pack("=QQQQ", _RDONLY | _NOSUID, 0, 0, 0)
    call("syscall", 442, -100, folder, 0x8000, attributes, len(attributes))
    options = f"size={size},nr_inodes={MOST_FILES},mode=700,uid={uid},gid={gid}"
    call("mount", "tmpfs", folder + BOX, "tmpfs", _NOSUID | _NODEV, options)
    os.chdir(folder)
    call("pivot_root", ".", ".")
    call("umount2", ".", 2)  # MNT_DETACH: the old root lies on top of the new one
    os.chdir("/")


# ------------------------------------------------------------------ rights


def private_id() -> int:
    """A user id that nobody has: near the end of those mapped here, different for each process."""
    with open("/proc/self/uid_map") as file:
        first, _, count = (int(word) for word in file.read().splitlines()[-1].split())
    if count < 1 << 15:
        raise ValueError(f"only {count} user ids are mapped")
    return first + count - 4 - os.getpid() % min(count // 2, 1 << 22)


def become(uid: int, box: str) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.listdir(os.path.dirname(os.__file__))  # a library in a closed home folder: imports would fail
    with open(os.__file__):
        os.listdir(box)


def drop_rights() -> None:
    """No capability now, none to be gained by running a file."""
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


def limit(limits: dict, tasks: int | None) -> None:
    """Resource limits of this process and of each child; ``tasks`` counts all of the user's."""
    file = limits["file_bytes"]
    wanted = {
        resource.RLIMIT_AS: (limits["memory"],) * 2,
        # One second later the kernel sends a signal that cannot be caught.
        resource.RLIMIT_CPU: (limits["cpu"], limits["cpu"] + 1),
        resource.RLIMIT_FSIZE: (file, file),
        resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    if tasks:
        wanted[resource.RLIMIT_NPROC] = (tasks, tasks)
    for name, (soft, hard) in wanted.items():
        most = resource.getrlimit(name)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        # macOS takes no limit on address space below what its libraries occupy.
        with contextlib.suppress(ValueError) if sys.platform == "darwin" else contextlib.nullcontext():
            resource.setrlimit(name, (soft, hard))


# ------------------------------------------------------------------ Landlock

_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_DEVICE_NODES = 1 << 6 | 1 << 11


def landlock(box: str) -> None:
    """Files: :func:`readable` to be read, ``box`` to be written, nothing else. No TCP, no signals to outside.

    From version 3 of the interface on (Linux 6.2): before, truncating was not covered.
    """
    version = call("syscall", 444, None, 0, 1)
    if version < 3:
        raise Refused("landlock", f"version {version}")
    every = (1 << (16 if version >= 5 else 15)) - 1
    # Handled rights on files; on TCP ports (version 4); scopes: abstract sockets and signals (version 6).
    rules = struct.pack("=QQQ", every, 3, 3)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = call("syscall", 444, rules, len(rules), 0)
    allowed = dict.fromkeys(readable(), _EXECUTE | _READ | _LIST) | dict.fromkeys(DEVICES, _READ | _WRITE)
    allowed[box] = every & ~_DEVICE_NODES
    for path, rights in allowed.items():
        if os.path.exists(path):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights &= -1 if os.path.isdir(path) else _EXECUTE | _READ | _WRITE
            call("syscall", 445, ruleset, 1, struct.pack("=Qi", rights, handle), 0)
            os.close(handle)
    call("syscall", 446, ruleset, 0)
    os.close(ruleset)


# ------------------------------------------------------------------ seccomp

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Numbers on x86_64 and aarch64.
_NEVER = {
    "socket": (41, 198), "io_uring_setup": (425, 425), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip
# What reaches processes outside where no namespace hides them.
_OUTSIDE = {
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}  # fmt: skip
_TGKILL, _PRLIMIT, _CLONE, _CLONE3 = (234, 131), (302, 261), (56, 220), (435, 435)
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


def seccomp(alone: bool) -> None:
    """A filter on system calls: no socket, no tracing, no new namespace; ``alone`` is a PID namespace of its own."""
    place, machine = _MACHINES[os.uname().machine]
    if struct.calcsize("P") != 8:
        raise Refused("seccomp", "a 32-bit interpreter")
    load, equal, any_bit, at_least, end = 0x20, 0x15, 0x45, 0x35, 0x06
    number, first_argument = 0, 16
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, _KILL), (load, 0, 0, number)]
    if place == 0:  # the x32 numbers are other names of the same calls
        steps += [(at_least, 0, 1, 0x40000000), (end, 0, 0, _EPERM)]

    def deny(call_number: int, answer: int = _EPERM) -> None:
        steps.extend([(equal, 0, 1, call_number), (end, 0, 0, answer)])

    def deny_unless(call_number: int, argument: int) -> None:
        steps.extend([(equal, 0, 4, call_number), (load, 0, 0, first_argument), (equal, 1, 0, argument),
                      (end, 0, 0, _EPERM), (load, 0, 0, number)])  # fmt: skip

    for numbers in (_NEVER if alone else _NEVER | _OUTSIDE).values():
        deny(numbers[place])
    deny_unless(_PRLIMIT[place], 0)
    if not alone:
        deny_unless(_TGKILL[place], os.getpid())  # abort() is a signal to oneself
    # clone3 hides its flags from a filter; without it the C library takes clone.
    deny(_CLONE3[place], _ENOSYS)
    namespaces = sum(_NEW.values()) | 0x02000000 | 0x80  # and those of cgroups and time
    steps += [(equal, 0, 4, _CLONE[place]), (load, 0, 0, first_argument), (any_bit, 0, 1, namespaces),
              (end, 0, 0, _EPERM), (load, 0, 0, number)]  # fmt: skip
    steps.append((end, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    call("prctl", 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ------------------------------------------------------------------ audit hook

_DENIED = ("socket.", "ctypes.", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.kill",
           "os.startfile", "signal.pthread_kill", "pty.", "winreg.", "sqlite3.connect", "webbrowser.")  # fmt: skip
_PATHS = {f"os.{name}" for name in (
    "remove", "rename", "mkdir", "rmdir", "link", "symlink", "truncate", "chmod", "chown", "chflags", "utime",
    "setxattr", "removexattr")}  # fmt: skip


def hook(box: str) -> None:
    """Python's own audit hook in the place of the kernel's walls: a fence, not a wall.

    Extension modules and memory tricks go past it.
    """
    box, real = os.path.realpath(box), os.path.realpath
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    allowed = (os.devnull,)
    join, denied, paths = os.sep, _DENIED, _PATHS

    def inside(path) -> bool:
        if isinstance(path, int):
            return True  # opened before, by these rules
        path = real(path if isinstance(path, str) else bytes(path).decode())
        return path in allowed or path == box or path.startswith(box + join)

    def watch(event: str, args: tuple) -> None:
        if event.startswith(denied):
            raise PermissionError(f"{event} is not allowed in the sandbox")
        if event == "open":
            checked = args[:1] if isinstance(args[2], int) and args[2] & writing else ()
        else:
            checked = [a for a in args[:2] if isinstance(a, (str, bytes))] if event in paths else ()
        if not all(inside(path) for path in checked):
            raise PermissionError(f"{event} outside the sandbox's folder")

    sys.addaudithook(watch)
