"""The Linux system calls that the sandbox needs and Python 3.10 does not offer. Standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from errno import EAFNOSUPPORT, EPERM

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10

# Per machine: the architecture's audit number, socket(2), and the calls that no job needs and that would widen
# the kernel's attack surface (ptrace, bpf, perf, io_uring, keys, namespaces, mounts) or hide memory from the
# watcher (System V shared memory, memfd).
_CALLS = {
    "x86_64": (
        0xC000003E,
        41,
        {
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
            "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "io_uring_setup": 425, "memfd_create": 319, "memfd_secret": 447,
            "shmget": 29, "msgget": 68, "semget": 64, "unshare": 272, "setns": 308, "chroot": 161,
            "pivot_root": 155, "mount": 165, "umount2": 166,
        },
    ),
    "aarch64": (
        0xC00000B7,
        198,
        {
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
            "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
            "userfaultfd": 282, "io_uring_setup": 425, "memfd_create": 279, "memfd_secret": 447,
            "shmget": 194, "msgget": 186, "semget": 190, "unshare": 97, "setns": 268, "chroot": 51,
            "pivot_root": 41, "mount": 40, "umount2": 39,
        },
    ),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        shown = ", ".join(a.decode() if isinstance(a, bytes) else str(getattr(a, "value", a)) for a in arguments)
        raise OSError(number, f"{name}({shown}): {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move the calling process (for pids: its future children) into new namespaces."""
    _call("unshare", ctypes.c_int(flags))


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind ``fd``."""
    _call("setns", ctypes.c_int(fd), ctypes.c_int(kind))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount ``source``, or change the mount at ``target``."""
    _call(
        "mount",
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode(),
    )


def make_root(path: str) -> None:
    """Make the mount at ``path`` the root directory and let go of the old one."""
    os.chdir(path)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", ctypes.c_int(MNT_DETACH))
    os.chdir("/")


def prctl(option: int, value: int, pointer: object = None) -> None:
    """Set one of the process's options; ``pointer`` where the option takes one."""
    _call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0))


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets; no_new_privs keeps them empty over exec."""
    _call("capset", struct.pack("=II", 0x20080522, 0), struct.pack("=6I", *[0] * 6))


def filter_calls() -> None:
    """Forbid the calls of ``_CALLS``, foreign system-call tables, and sockets that network namespaces let out.

    Needs no_new_privs. AF_VSOCK, for one, reaches a virtual machine's host whatever the network namespace.
    """
    architecture, socket, denied = _CALLS[platform.machine()]
    allow, kill = 0x7FFF0000, 0x80000000
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    deny, no_family = 0x00050000 | EPERM, 0x00050000 | EAFNOSUPPORT
    program = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (ret, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (ret, 0, 0, deny),  # x32's numbers
    ]  # fmt: skip
    for number in denied.values():
        program += [(equal, 0, 1, number), (ret, 0, 0, deny)]
    program += [(equal, 1, 0, socket), (ret, 0, 0, allow), (load, 0, 0, 16)]  # 16: the low half of argument 0
    for family in (AF_UNIX, AF_INET, AF_INET6):
        program += [(equal, 0, 1, family), (ret, 0, 0, allow)]
    program.append((ret, 0, 0, no_family))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    prctl(PR_SET_SECCOMP, 2, struct.pack("@HP", len(program), ctypes.addressof(code)))


def check_machine() -> None:
    """Raise OSError unless the call filter knows this kind of machine."""
    if platform.machine() not in _CALLS:
        raise OSError(EPERM, f"{platform.machine()} is none of {', '.join(_CALLS)}")
