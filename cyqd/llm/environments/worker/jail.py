"""The walls: what the worker builds once around itself, and what it adds around every job.

Three layers, each less trusted than the one before:

1. the worker (``enter``): own user, mount, pid, network, ipc, uts and cgroup namespaces; a read-only root with the
   system's programs and Python's, no home, no project, no network interface that is up.
2. a job's process 1 (``open_cell``): fresh pid and mount namespaces, an empty tmpfs as the only writable place.
3. the program (``give_up_privileges``): a user namespace of its own, in which it can create no further one, no
   capabilities, no_new_privs, a system-call filter, resource limits. Process 1 of its pid namespace belongs to
   another user namespace and ignores signals from inside, so the program can neither trace nor end it; the worker
   it cannot even see.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import signal
import socket
import sys
from collections.abc import Mapping

from . import linux

BOX = "/box"  # the job's tmpfs
HOME = f"{BOX}/home"
SCRATCH = f"{BOX}/tmp"  # /tmp and /dev/shm lead here
USER = 1000  # what the job takes itself for
NOBODY = 65534  # who it is outside where the worker was started by root, whom the kernel's process limit spares

_DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
_LINKS = {
    "/tmp": SCRATCH,
    "/dev/shm": SCRATCH,
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}


def enter() -> None:
    """Move into the first layer.

    Returns in a new process, which is process 1 of its pid namespace and dies with its parent; the parent waits for
    it and never returns.

    Raises:
        OSError: naming the call that the system refused.
    """
    linux.check_machine()
    os.stat("/bin/bash")  # better now than in every bash job
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and _is_mapped(NOBODY):
        uid = gid = NOBODY
        os.setgroups([])
    _unshare_as(uid, gid)
    sources = _open_sources()  # before the change of user: Python may live in a home that only its owner enters
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map cannot be written any more
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the last change of credentials, which unsets it
    init = os.fork()
    if init:
        os.closerange(0, 3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) & 0xFF)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _build_root(sources)
    socket.sethostname("sandbox")


def open_cell(disk_mb: int) -> None:
    """Put the calling process, process 1 of a fresh pid namespace, into the second layer, in the directory HOME."""
    linux.unshare(linux.CLONE_NEWNS)
    hardened = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", "/proc", "proc", hardened | linux.MS_NOEXEC)
    linux.mount("tmpfs", BOX, "tmpfs", hardened, f"size={disk_mb}m,nr_inodes={256 * disk_mb},mode=755")
    os.mkdir(HOME, 0o700)
    os.mkdir(SCRATCH, 0o700)
    os.chdir(HOME)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)  # the program shall not write to /proc/1


def give_up_privileges(limits: Mapping[str, float]) -> None:
    """Put the calling process into the third layer.

    Args:
        limits: the fields of ``sandbox.Limits``.
    """
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    os.setsid()
    linux.unshare(linux.CLONE_NEWUSER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{USER} 0 1")
    _write("/proc/self/gid_map", f"{USER} 0 1")
    _write("/proc/sys/user/max_user_namespaces", "0")
    memory, disk = int(limits["memory_mb"]) << 20, int(limits["disk_mb"]) << 20
    _limit(resource.RLIMIT_AS, 2 * memory)  # the watcher bounds what is in use; this, one leap between two looks
    _limit(resource.RLIMIT_CPU, int(limits["cpu_seconds"]) + 2)  # likewise
    _limit(resource.RLIMIT_FSIZE, disk)
    _limit(resource.RLIMIT_NOFILE, 256)
    _limit(resource.RLIMIT_STACK, 8 << 20)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    if _kernel() >= (
        5,
        14,
    ):  # before that all of the user's processes, outside too, count; the watcher must do
        _limit(resource.RLIMIT_NPROC, int(limits["processes"]))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()
    linux.filter_calls()


def _unshare_as(uid: int, gid: int) -> None:
    """Unshare everything, with ``uid`` and ``gid`` outside as root inside.

    A helper that stays outside writes the maps: only there may root give a user other than itself.
    """
    ready, unshared = os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if not helper:
        os.close(unshared)
        os.read(ready, 1)
        try:
            _write(f"/proc/{parent}/setgroups", "deny")
            _write(f"/proc/{parent}/uid_map", f"0 {uid} 1")
            _write(f"/proc/{parent}/gid_map", f"0 {gid} 1")
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    os.close(ready)
    linux.unshare(
        linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET
        | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
    )  # fmt: skip
    os.close(unshared)
    code = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])
    if code:
        raise OSError(code, f"writing the id maps of the user namespace: {os.strerror(code)}")


def _open_sources() -> dict[str, int]:
    """Open what the job may see of the host: path → descriptor, from which it is mounted later."""
    paths = ["/usr", "/etc/alternatives", "/etc/ld.so.cache", *_DEVICES]
    paths += [path for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64") if not os.path.islink(path)]
    if not f"{sys.base_prefix}/".startswith("/usr/"):
        paths += [f"{sys.base_prefix}/{name}" for name in ("bin", "lib", "lib64")]
    return {path: os.open(path, os.O_PATH) for path in paths if os.path.exists(path)}


def _build_root(sources: Mapping[str, int]) -> None:
    """Build the read-only root from ``sources`` and move into it; closes them."""
    new = "/tmp"  # any directory that every system has: it is covered in this mount namespace only
    hardened = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", new, "tmpfs", hardened, "size=1m,mode=755")
    links = {
        path: os.readlink(path) for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64") if os.path.islink(path)
    }
    for path, fd in sources.items():
        source, target = f"/proc/self/fd/{fd}", new + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            os.mkdir(target)
        else:
            _write(target, "")
        linux.mount(source, target, None, linux.MS_BIND | linux.MS_REC)
        os.close(fd)
    _make_read_only(new)
    for path, destination in {**links, **_LINKS}.items():
        os.symlink(destination, new + path)
    _write(f"{new}/etc/passwd", f"root:x:0:0::/:/bin/false\nuser:x:{USER}:{USER}::{HOME}:/bin/bash\n")
    _write(f"{new}/etc/group", f"root:x:0:\nuser:x:{USER}:\n")
    os.mkdir(new + BOX)
    os.mkdir(f"{new}/proc")
    linux.mount("proc", f"{new}/proc", "proc", hardened | linux.MS_NOEXEC)
    linux.make_root(new)
    linux.mount(None, "/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | hardened)


def _make_read_only(root: str) -> None:
    """Make every mount below ``root`` read-only, and free of devices outside ``root``/dev."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        mounts = [line.split()[:5] for line in lines]
    # By descent, not by path: the host may have mounts below the directory that ``root`` covers.
    inside = {[number for number, _, _, _, point in mounts if point == root][-1]}
    for number, parent, _, _, point in mounts:
        if parent not in inside:
            continue
        inside.add(number)
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point)
        now = os.statvfs(point).f_flag  # what the host forbids there must stay forbidden
        flags = now & (linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_NOATIME | linux.MS_NODIRATIME)
        flags |= linux.MS_RDONLY | linux.MS_NOSUID | (linux.MS_RELATIME if now & os.ST_RELATIME else 0)
        if not point.startswith(f"{root}/dev/"):
            flags |= linux.MS_NODEV
        linux.mount(None, point, None, linux.MS_REMOUNT | linux.MS_BIND | flags)


def _is_mapped(uid: int) -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        ranges = [[int(number) for number in line.split()] for line in lines]
    return any(first <= uid < first + count for first, _, count in ranges)


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int(minor.split("-")[0])


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
