"""Programs that try to break out of the sandbox, to break it, or to be scored right when they are not.

Each prints ESCAPED where it gets what it wants. The test lays HELPER beside them as ``escape.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HELPER = """
import ctypes, json

host = json.load(open("host.json"))  # where on the host there is something to get
libc = ctypes.CDLL(None, use_errno=True)

def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        print("refused", arguments, error)
    else:
        print("ESCAPED", arguments)

def call(name, *arguments):
    print("refused" if getattr(libc, name)(*arguments) == -1 else "ESCAPED", name, arguments)
"""


@dataclass(frozen=True)
class Hostile:
    """A hostile program and how it must end.

    Attributes:
        source: the program.
        statuses: the acceptable values of ``Outcome.status``, separated by spaces.
        completed: the only acceptable ``Outcome.completed``; None where either is harmless.
        language: as in ``Job``.
    """

    source: str
    statuses: str = "error"
    completed: bool | None = False
    language: Literal["python", "bash"] = "python"


PROGRAMS = {
    # using things up
    "fork_bomb": Hostile(
        """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
        statuses="timeout error",
    ),
    "fork_bomb_bash": Hostile(":(){ :|:& };: ; wait; false", statuses="timeout error output", language="bash"),
    "thread_bomb": Hostile(
        """
import threading, time
while True: threading.Thread(target=time.sleep, args=(99,)).start()
""",
        statuses="error timeout",
    ),
    "endless_output": Hostile("while True: print('x' * 1000)", statuses="output"),
    "endless_output_bash": Hostile("yes", statuses="output", language="bash"),
    "huge_stderr": Hostile(
        """
import os
while True: os.write(2, b'x' * 65536)
""",
        statuses="output",
    ),
    "memory_hog": Hostile(
        """
hog = []
while True: hog.append(bytearray(1 << 20))
""",
        statuses="memory error",
    ),
    "memory_leap": Hostile("bytearray(10 ** 11)"),
    "compile_hog": Hostile(
        """
x = '9' * (1 << 20)
y = eval('+'.join(['x'] * (1 << 16)))
""",
        statuses="memory error timeout",
    ),
    "distributed_memory_hog": Hostile(
        """
import os, time
for _ in range(12):
    if not os.fork(): break
hog = os.urandom(1 << 20) * 32
time.sleep(99)
""",
        statuses="memory",
    ),
    "hidden_memory_hog": Hostile(
        """
import ctypes
ctypes.CDLL(None).prctl(4, 0)  # undumpable: its memory maps cannot be read
hog = []
while True: hog.append(bytearray(1 << 20))
""",
        statuses="memory error",
    ),
    "memory_in_memfd": Hostile("""
import os
for i in range(99):
    fd = os.memfd_create(str(i))
    os.write(fd, b'x' * (4 << 20))
print('ESCAPED')
"""),
    "memory_in_shared_segments": Hostile(
        """
from escape import call
for key in range(9): call('shmget', 77 + key, 4 << 20, 0o1600)
""",
        statuses="ok",
        completed=None,
    ),
    "shared_memory_filling": Hostile("""
with open('/dev/shm/x', 'wb') as f:
    while True: f.write(b'x' * (1 << 20))
"""),
    "ten_gigabyte_file": Hostile("""
with open('big', 'wb') as f:
    for _ in range(10240): f.write(bytes(1 << 20))
"""),
    "ten_gigabyte_hole": Hostile("with open('big', 'wb') as f: f.truncate(10 << 30)"),
    "many_small_files": Hostile("""
i = 0
while True:
    open(f'{i}', 'w').close()
    i += 1
"""),
    "deep_directories": Hostile(
        """
import os
while True:
    os.mkdir('d')
    os.chdir('d')
""",
        statuses="error timeout",
    ),
    "endless_recursion": Hostile("""
def f(): f()
f()
"""),
    "busy_threads": Hostile(
        """
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin).start()
""",
        statuses="timeout",
        completed=None,
    ),
    "busy_processes": Hostile(
        "for i in 1 2 3 4; do (while :; do :; done) & done; wait", statuses="timeout", language="bash"
    ),
    "endless_sleep": Hostile(
        """
import time
while True: time.sleep(99)
""",
        statuses="timeout",
    ),
    "blocking_fifo": Hostile(
        """
import os
os.mkfifo('f')
open('f')
""",
        statuses="timeout",
    ),
    "regular_expression_bomb": Hostile(
        """
import re
re.match(r'(a+)+$', 'a' * 50 + 'b')
""",
        statuses="timeout",
    ),
    # not dying
    "ignoring_signals": Hostile(
        """
import signal, time
for n in set(signal.valid_signals()) - {9, 19}:
    try: signal.signal(n, signal.SIG_IGN)
    except OSError: pass
while True: time.sleep(99)
""",
        statuses="timeout",
    ),
    "ignoring_signals_bash": Hostile(
        "trap '' TERM INT ALRM HUP XCPU; while :; do :; done", statuses="timeout", language="bash"
    ),
    "daemon": Hostile(
        """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(99)
    os._exit(0)
""",
        statuses="ok",
        completed=True,
    ),
    "daemon_bash": Hostile("setsid nohup sleep 99 & disown; exit 7", language="bash"),
    # looking out
    "reading_secrets": Hostile(
        """
import os
from escape import host
for path in [*host['files'], '/proc/1/environ', '/proc/1/cwd', '/root/.ssh', '/home', '/etc/shadow']:
    try: print(open(path).read())
    except OSError as error: print('refused', error)
print(dict(os.environ), open('/proc/self/environ').read())
""",
        statuses="ok",
        completed=None,
    ),
    "reading_everything_bash": Hostile(
        """
env
set
cat /proc/*/environ /proc/*/cmdline /proc/keys 2>&1
ls -laR /root /home /srv /mnt /var /run 2>&1
grep -rs SECRET /etc /box /root/* --include='*secret*'
false
""",
        statuses="error output",
        language="bash",
    ),
    "climbing_symlinks": Hostile(
        """
import os
from escape import host
for path in host['files']:
    os.symlink(path, 'link')
    os.symlink('../' * 40 + path, 'far')
    for name in ('link', 'far', '/proc/1/root' + path, '/proc/self/root' + path):
        try: print(open(name).read())
        except OSError as error: print('refused', error)
    os.unlink('link'), os.unlink('far')
""",
        statuses="ok",
        completed=None,
    ),
    "tcp_to_the_host": Hostile("""
import socket
from escape import host
s = socket.create_connection(('127.0.0.1', host['port']), timeout=9)
print('ESCAPED')
"""),
    "tcp_to_the_internet": Hostile("""
import socket
socket.create_connection(('1.1.1.1', 53), timeout=9)
print('ESCAPED')
"""),
    "udp": Hostile("""
import socket
socket.socket(2, 2).sendto(b'x', ('8.8.8.8', 53))
print('ESCAPED')
"""),
    "dns": Hostile("""
import socket
print('ESCAPED', socket.getaddrinfo('example.com', 80))
"""),
    "abstract_socket": Hostile(r"""
import socket
from escape import host
s = socket.socket(socket.AF_UNIX)
s.connect('\0' + host['abstract'])
print('ESCAPED')
"""),
    "hypervisor_socket": Hostile("""
import socket
socket.socket(40, socket.SOCK_STREAM)
print('ESCAPED')
"""),
    "bash_network": Hostile("echo x > /dev/tcp/127.0.0.1/22 && echo ESCAPED; false", language="bash"),
    # reaching out
    "writing_outside": Hostile("""
import os, sys
from escape import attempt, host
for folder in ('', '/usr', '/usr/bin', '/etc', '/dev', '/proc', '/root', sys.base_prefix + '/lib'):
    attempt(open, folder + '/escaped', 'w')
for path in ('/etc/passwd', '/usr/bin/env', *host['files']):
    attempt(open, path, 'r+')
for name in ('sys/kernel/hostname', 'sys/vm/drop_caches', 'sys/user/max_user_namespaces', 'sysrq-trigger'):
    attempt(open, '/proc/' + name, 'r+')
for name in ('mem', 'oom_score_adj', 'uid_map'):
    attempt(open, '/proc/1/' + name, 'r+')
attempt(os.mknod, 'disk', 0o60600, os.makedev(254, 0))
sys.exit('refused')
"""),
    "removing_the_system": Hostile(
        """
rm -rf /bin/* /usr/local /etc /root/* /box 2>/dev/null
test -e /usr/bin/env || echo ESCAPED
""",
        statuses="ok",
        completed=None,
        language="bash",
    ),
    "mounting": Hostile("""
import os
from escape import call
call('mount', b'none', b'/box/tmp', b'tmpfs', 0, None)
call('mount', None, b'/usr', None, 32 | 4096, None)
call('umount2', b'/proc', 2)
call('umount2', b'/box', 2)
os.chroot('/')
"""),
    "chroot_escape": Hostile("""
import os
os.mkdir('c')
fd = os.open('.', 0)
os.chroot('c')
os.fchdir(fd)
for _ in range(99): os.chdir('..')
os.chroot('.')
print('ESCAPED')
"""),
    "new_namespaces": Hostile("""
import os
from escape import call
call('unshare', 0x10000000)
call('unshare', 0x20000)
call('syscall', 56, 0x10000000 | 17, 0, 0, 0, 0) if os.uname().machine == 'x86_64' else None
call('setns', os.open('/proc/1/ns/user', 0), 0)
"""),
    "new_namespaces_bash": Hostile(
        """
unshare -Ur true && echo ESCAPED
unshare -n true && echo ESCAPED
false
""",
        language="bash",
    ),
    "becoming_root": Hostile("""
import os
for change in (os.setuid, os.setgid):
    try: change(0)
    except OSError: pass
    else: print('ESCAPED')
os.setgroups([0])
print('ESCAPED')
"""),
    "set_user_id_programs": Hostile(
        """
cp /bin/bash b
chmod u+s b
./b -p -c 'id -u' | grep -qx 0 && echo ESCAPED
su -c id </dev/null && echo ESCAPED
false
""",
        language="bash",
    ),
    "tracing": Hostile("""
import os
from escape import call
for pid in (1, os.getppid()): call('ptrace', 16, pid, None, None)
open('/proc/1/mem', 'rb')
"""),
    "kernel_interfaces": Hostile("""
import os
from escape import call
call('syscall', 425, 8, 0) # io_uring_setup
call('syscall', 321 if os.uname().machine == 'x86_64' else 280, 0, 0, 0) # bpf
open('/dev/kmsg')
"""),
    # attacking the sandbox
    "killing_everyone": Hostile("""
import os
for pid in (1, os.getppid(), *range(3, 300)):
    for n in (9, 15, 19, 2):
        try: os.kill(pid, n)
        except OSError: pass
os.kill(-1, 9)
os.kill(os.getpid(), 9)
"""),
    "killing_everyone_bash": Hostile("kill -9 1 $PPID; kill -9 -1; kill -9 0; kill -9 $$", language="bash"),
    "killing_its_group": Hostile("""
import os
os.killpg(0, 9)
"""),
    "stopping_itself": Hostile(
        """
import os
os.kill(os.getpid(), 19)
""",
        statuses="timeout",
    ),
    "segmentation_fault": Hostile("""
import ctypes
ctypes.string_at(0)
"""),
    "closing_descriptors": Hostile(
        """
import os
os.closerange(0, 65536)
""",
        statuses="ok error",
    ),
    "garbage_to_descriptors": Hostile(
        r"""
import os
for fd in range(256):
    try: os.write(fd, b'{"status": "ok", "completed": true}\n' * 20)
    except OSError: pass
""",
        statuses="ok error",
    ),
    "flooding_descriptors": Hostile(
        """
import os
while True:
    for fd in range(3, 9):
        try: os.write(fd, b'x' * 4096)
        except OSError: pass
""",
        statuses="output",
    ),
    "undecodable_output": Hostile("""
import os
os.write(1, bytes(range(256)) * 9)
raise SystemError
"""),
    # pretending to have completed
    "leaving_at_once": Hostile(
        """
import os
os._exit(0)
""",
        statuses="ok",
    ),
    "leaving_politely": Hostile(
        """
import sys
sys.exit(0)
""",
        statuses="ok",
    ),
    "quitting": Hostile("quit()", statuses="ok"),
    "leaving_from_a_child": Hostile(
        """
import os
if os.fork(): os._exit(0)
""",
        statuses="ok",
    ),
    "another_program": Hostile(
        """
import os
os.execv('/bin/true', ['true'])
""",
        statuses="ok",
    ),
    "overriding_builtins": Hostile("""
import builtins, os, sys
builtins.exec = builtins.compile = builtins.print = builtins.open = lambda *a, **k: 0
builtins.BaseException = builtins.SystemExit = int
os._exit = os.write = sys.excepthook = lambda *a: 0
assert False
"""),
    "null_byte": Hostile("print(1)\x00"),
    "surrogate": Hostile("print('\ud800')"),
}
