"""Owns what a task sees of its machine: private mounts, few capabilities, no way to gain more.

The machine's root is visible read-only, as Borg's tasks saw theirs; the task's own directory is writable at its
own path, /tmp is the task's own, /dev, /proc and /run are private, and secrets are covered. Tasks are still uid 0
and can read what else is on the machine. Runs in a single-threaded child that is about to exec; standard
library only. The network is the machine's (DESIGN §8).
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWPID: Final = 0x2000_0000

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096
_MS_REC: Final = 16384
_MS_SLAVE: Final = 1 << 19
_FLAGS: Final = {"nosuid": _MS_NOSUID, "nodev": _MS_NODEV, "noexec": _MS_NOEXEC}

_SYS_MOUNT_SETATTR: Final = 442  # the same on every architecture
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1

_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_MAX: Final = 63
CAP_SYS_ADMIN: Final = 21
# chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service: what servers started as root use.
# Left out of Docker's default set: mknod (devices of the machine), net_raw, sys_chroot, setpcap, setfcap, audit_write.
KEPT_CAPABILITIES: Final = frozenset({0, 1, 3, 4, 5, 6, 7, 10})

_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# As runc: files under /proc through which root inside would still steer or read the machine.
_PROC_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_PROC_COVERED: Final = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
)
# Keys and passwords of the machine, and sockets of engines that hand out root (most lie in /run, which is private).
SECRETS: Final = (
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/ssh",
    "/etc/ssl/private",
    "/root/.aws",
    "/root/.config/gcloud",
    "/root/.docker",
    "/root/.gnupg",
    "/root/.kube",
    "/root/.netrc",
    "/root/.ssh",
    "/sys/firmware",
    "/var/run/docker.sock",
)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Layout(NamedTuple):
    """What differs between tasks: all absolute paths of the machine."""

    work: str  # writable, seen at its own path
    tmp: str  # seen as /tmp
    masked: Sequence[str]  # hidden, besides SECRETS
    visible: Sequence[str]  # seen read-only although they lie under something hidden


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones; a new pid namespace is for children only."""
    _check(_libc.unshare(flags), "unshare")


def join(descriptor: int, flags: int) -> None:
    """Enter the namespace that the descriptor names; a pid namespace is for children only."""
    _check(_libc.setns(descriptor, flags), "setns")


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def has_capability(number: int) -> bool:
    """Whether this process has the capability in effect."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        held = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(held.split()[1], 16) >> number & 1)


def drop_privileges() -> None:
    """Keep only ``KEPT_CAPABILITIES`` over the next exec, and let no exec add any."""
    for number in range(_CAPABILITY_MAX + 1):
        if number not in KEPT_CAPABILITIES and _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def isolate(layout: Layout) -> None:
    """Give this process its own mounts, IPC and host name; it must be in a new pid namespace already."""
    unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS)
    _mount(None, "/", flags=_MS_REC | _MS_SLAVE)  # else our mounts would appear on the machine
    # What is shown again inside hidden places is opened first: these handles reach below what covers it.
    handles = _Handles([layout.work, layout.tmp, *layout.visible, *_resolver_files()])
    devices = _Handles([f"/dev/{name}" for name in _DEVICES])
    make_read_only("/")
    handles.show(layout.tmp, "/tmp", _MS_NOSUID | _MS_NODEV)
    covers = [path for path in _outermost(("/run", *SECRETS, *layout.masked)) if _cover(path)]
    for path in (*layout.visible, *_resolver_files()):
        handles.show(path, path, _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    handles.show(layout.work, layout.work, _MS_NOSUID | _MS_NODEV)
    for path in covers:
        if os.path.isdir(path) and path != "/run":
            _mount(None, path, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _make_dev(devices)
    handles.close()
    devices.close()
    _make_proc()


def _outermost(paths: Sequence[str]) -> list[str]:
    """The paths that lie in no other of them: covering one hides all below, where nothing is left to cover."""
    return [
        path
        for path in dict.fromkeys(paths)
        if not any(path != other and path.startswith(f"{other}/") for other in paths)
    ]


def make_read_only(path: str) -> None:
    """Make the mount at ``path`` and all below read-only, for this mount namespace alone."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    if result < 0 and ctypes.get_errno() == errno.ENOSYS:  # before Linux 5.12
        return make_read_only_one_by_one(path)
    return _check(result, f"making {path} read-only")


def make_read_only_one_by_one(path: str) -> None:
    """``make_read_only`` for kernels without mount_setattr; keeps the other flags of each mount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split(" ")[4:6] for line in file]
    prefix = path.rstrip("/") + "/"
    for escaped, options in mounts:
        point = escaped.encode().decode("unicode_escape") if "\\" in escaped else escaped
        if point != path and not point.startswith(prefix):
            continue
        flags = sum(_FLAGS.get(option, 0) for option in options.split(","))
        with contextlib.suppress(FileNotFoundError):  # below something that was mounted over it
            _mount(None, point, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY | flags)


class _Handles:
    """Open paths, to be bound elsewhere after they were hidden; paths that do not exist are left out."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._descriptors: dict[str, int] = {}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._descriptors[path] = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptors)

    def show(self, path: str, target: str, flags: int) -> None:
        """Bind the open ``path`` at ``target``, which is made when it is not there."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            return
        if stat.S_ISDIR(os.stat(descriptor).st_mode):
            os.makedirs(target, exist_ok=True)
        elif not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        _mount(f"/proc/self/fd/{descriptor}", target, flags=_MS_BIND | _MS_REC)
        _mount(None, target, flags=_MS_BIND | _MS_REMOUNT | flags)

    def close(self) -> None:
        """Let go of all."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def _resolver_files() -> list[str]:
    """What /etc/resolv.conf leads to, when that lies in /run (systemd-resolved, NetworkManager)."""
    target = os.path.realpath("/etc/resolv.conf")
    return [target] if target.startswith("/run/") else []


def _cover(path: str) -> bool:
    """Hide a directory or a file behind an empty one; False if there is none."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    else:
        _mount("/dev/null", path, flags=_MS_BIND)
    return True


def _make_dev(devices: _Handles) -> None:
    _mount("tmpfs", "/dev", "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=755,size=64k")
    for path in devices:
        devices.show(path, path, _MS_NOSUID | _MS_NOEXEC)
    os.mkdir("/dev/pts")
    options = "newinstance,ptmxmode=0666,mode=0620"
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, options)
    os.mkdir("/dev/shm")
    options = "mode=1777,size=64m"  # as Docker; its pages count as the task's ram
    _mount("tmpfs", "/dev/shm", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    for name, target in _DEVICE_LINKS:
        os.symlink(target, f"/dev/{name}")


def _make_proc() -> None:
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for path in _PROC_READ_ONLY:
        if os.path.exists(path):
            _mount(path, path, flags=_MS_BIND)
            _mount(None, path, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    for path in _PROC_COVERED:
        _cover(path)


def _mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(data) or None)
    _check(result, f"mounting {target}")


def _prctl(option: int, value: int) -> None:
    result = _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
    _check(result, f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
