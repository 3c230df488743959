import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import docker
import pytest

from cyqd.llm.environments import containers
from cyqd.llm.environments.containers import LABEL, DockerUnavailable, docker_client, labels, reap
from cyqd.llm.environments.driven import Container, ContainerFault
from cyqd.llm.environments.pool import ContainerLimits, ContainerPool
from cyqd.llm.images import ImageError, build, known

from .agent_image import agent_image, base_image

ROOT = Path(__file__).parents[2]
FEW = ContainerLimits(memory_mb=256, processes=64, disk_mb=32)
BROKEN = 'echo broken > /proc/1/fd/1; echo \'{"exit": 0, "output": "x", "free": 0, "token": ""}\' > /proc/1/fd/1'


@pytest.fixture(scope="module")
def image() -> str:
    return agent_image()


@pytest.fixture(scope="module")
def pool(image: str) -> Iterator[ContainerPool]:
    os.environ["CYQD_TEST_SECRET"] = "SECRET-7d1f"
    made = ContainerPool(image, warm=1, limits=FEW)
    yield made
    made.close()
    del os.environ["CYQD_TEST_SECRET"]


@pytest.fixture
def container(pool: ContainerPool) -> Iterator[Container]:
    taken = pool.take()
    yield taken
    taken.close()


def shell(container: Container, text: str, silence: float = 5, seconds: float = 20) -> str:
    return container.shell(text, silence=silence, seconds=seconds).replace("\r\n", "\n")


def bash(container: Container, code: str, *arguments: str, seconds: float = 20) -> tuple[int | None, str]:
    return container.script("bash", code, *arguments, seconds=seconds)


def owned(owner: str) -> set[str]:
    """Return the containers of an owner."""
    found = docker_client().api.containers(all=True, filters={"label": f"{LABEL}={owner}"})
    return {one["Id"] for one in found}


# The daemon, and whose container is whose


def test_without_a_daemon_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(containers, "_client", None)
    with pytest.raises(DockerUnavailable, match="install Docker"):
        docker_client()


@pytest.mark.docker
def test_only_what_dead_processes_of_this_machine_left_is_removed(image):
    client = docker_client()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        dead = containers._identity(process.pid)
        process.communicate(b"\n")
    living = labels()[LABEL].split()
    owners = {
        "dead": dead,
        "its number is taken again": [*living[:4], "1"],
        "before the machine was started again": [living[0], "another-boot", *living[2:]],
        "this process": living,
        "of another machine": ["elsewhere", *dead[1:]],
        "of another process namespace": [*dead[:2], "pid:[1]", *dead[3:]],
        "of nobody": ["what", "is", "this"],
    }
    made = {
        name: client.api.create_container(image, ["true"], labels={LABEL: " ".join(owner)})["Id"]
        for name, owner in owners.items()
    }
    try:
        reap(client)
        left = {one["Id"] for one in client.api.containers(all=True)}
        gone = [name for name, one in made.items() if one not in left]
        assert gone == ["dead", "its number is taken again", "before the machine was started again"]
    finally:
        for one in made.values():
            containers.remove(client, one)


PROGRAM = """
import sys
from cyqd.llm.environments.containers import labels, LABEL
from cyqd.llm.environments.pool import ContainerPool
container = ContainerPool(sys.argv[1], warm=1).take()
print(labels()[LABEL], flush=True)
sys.stdin.readline()
"""


@pytest.mark.docker
def test_no_container_is_left_behind(image, monkeypatch):
    command = [sys.executable, "-c", PROGRAM, image]
    with (
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ended,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed,
    ):
        owners = []
        for process in (ended, killed):
            assert process.stdout
            owners.append(process.stdout.readline().strip())
        assert all(map(owned, owners))
        ended.communicate("\n")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert ended.returncode == 0
    assert not owned(owners[0])
    assert owned(owners[1])
    monkeypatch.setattr(containers, "_client", None)
    docker_client()  # the next start
    assert not owned(owners[1])


@pytest.mark.docker
def test_an_image_that_cannot_serve_is_named():
    for name, message in (("nowhere/none", "no image nowhere/none.*cyqd images"), (base_image(), "no python3")):
        unusable = ContainerPool(name, warm=0)
        with pytest.raises(DockerUnavailable, match=message):
            unusable.take()
        unusable.close()


# Inside


@pytest.mark.docker
def test_the_shell_keeps_its_state(container):
    assert shell(container, "cd /tmp; X=1; f() { echo f$X; }; export Y=2") == ""
    assert shell(container, "pwd; f; printenv Y") == "/tmp\nf1\n2\n"
    assert shell(container, "for i in 1 2\ndo\n  echo $i\ndone\ncat <<EOF\nhi!\nEOF") == "1\n2\nhi!\n"
    assert shell(container, "if; then") == "bash: syntax error near unexpected token `;'\n"
    assert shell(container, "echo ${unset?is unset}; echo no") == "bash: unset: is unset\n"
    assert shell(container, "PS1='$ '; PROMPT=x; echo é; printf 'no newline'") == "é\nno newline"
    assert shell(container, "sleep 100 & jobs | wc -l; [ -t 0 ] && shopt -q login_shell && echo login").endswith(
        "1\nlogin\n"
    )
    assert shell(container, "exit 3") == "logout\n"
    assert shell(container, "pwd; echo $X; echo $0") == "/\n\n/bin/bash\n"


@pytest.mark.docker
def test_what_waits_for_input_gets_what_is_typed_next(container):
    started = time.monotonic()
    assert shell(container, "echo a; cat; echo b", silence=0.5) == "a\n"
    assert shell(container, "typed", silence=0.5) == "typed\n"
    assert shell(container, "\x04") == "b\n"
    assert shell(container, "useradd jack -m -s /bin/bash; su - jack", silence=0.5).endswith("$ ")
    assert "jack\n" in shell(container, "whoami", silence=0.5)
    assert shell(container, "exit").endswith("logout\n")
    assert shell(container, "whoami") == "root\n"
    assert shell(container, "sleep 0.7", silence=0.3) == ""
    time.sleep(0.6)
    assert shell(container, "echo ended") == "ended\n"
    assert time.monotonic() - started < 10


@pytest.mark.docker
def test_a_program_that_computes_is_not_silent(container):
    loop = "python3 -c 'import time\nwhile time.process_time() < 1.5: pass\nprint(1)'"
    assert shell(container, loop, silence=0.5) == "1\n"


@pytest.mark.docker
def test_scripts_are_programs_of_their_own(container):
    assert bash(container, "pwd; id -u; echo $0 $1 $#; cat; exit 3", "a b") == (3, "/\n0\n-- a b 1\n")
    assert bash(container, "echo $#") == (0, "0\n")
    assert bash(container, "echo out; echo err >&2; sleep 60 &") == (0, "out\nerr\n")
    assert bash(container, "echo before; sleep 60", seconds=0.5) == (None, "before\n")
    assert bash(container, "kill -9 $$") == (137, "")
    assert container.script("python", "import sys; print(sys.argv)", "é", seconds=9) == (0, "['-c', 'é']\n")
    code, output = bash(container, "cat /dev/zero | head -c 10000000 | tr '\\0' x")
    assert (code, len(output)) == (0, 65536)
    for impossible in ("\0", "\ud800", "x" * 200_000):
        assert bash(container, "true", impossible)[0] == 126
    assert bash(container, "echo $'\\xff'") == (0, "\ufffd\n")


@pytest.mark.docker
def test_packages_are_installed_without_a_network(container):
    code, output = bash(
        container, "sudo true; apt-get update && apt-get install -y sudo && sudo whoami", seconds=60
    )
    assert (code, output.endswith("root\n"), "sudo: command not found" in output) == (0, True, True), output


# Hostile


@pytest.mark.docker
def test_nothing_of_the_host_is_seen(container):
    assert bash(container, "env | grep -c SECRET")[1] == "0\n"
    assert bash(container, "ls /sys/class/net")[1] == "lo\n"
    processes, host, *resolvers = bash(container, "ls -1 /proc | grep -c '^[0-9]'; hostname; cat /etc/resolv.conf")[
        1
    ].splitlines()
    assert int(processes) < 10
    assert host == "os"
    assert resolvers == []
    for path in (ROOT, "/var/run/docker.sock"):
        assert bash(container, f"ls {path}")[0] == 2
    for refused in "mount -t tmpfs none /mnt", "mknod /tmp/disk b 8 0", "unshare -m true", "chroot / true":
        assert bash(container, refused)[0] not in (0, 127), refused
    assert bash(container, "head -c 40000000 /dev/zero > /tmp/big")[0] == 153  # SIGXFSZ


HOSTILE = {
    "yes": "yes",
    "binary": "head -c 300000 /dev/urandom",
    "gigabytes": "head -c 5000000000 /dev/zero",
    "fork bomb": ":(){ :|:& };:",
    "many": "for i in $(seq 200); do sleep 100 & done; wait",
    "memory": "python3 -c 'x = bytearray(10**10)'; x=$(tail /dev/zero)",
    "waits": "read x; cat; sleep 1000",
    "editor": "vim /etc/passwd",
    "ignores signals": "trap '' INT TERM HUP; while true; do :; done",
    "kills": "kill -9 -1; kill -9 $$",
    "kills the driver": "kill -9 1; kill -INT 1; kill -TERM 1; kill -STOP 1",
    "no terminal": "exec < /dev/null > /dev/null 2>&1",
    "no shell": "echo 'exit 0' > ~/.profile; rm -f /bin/sh; exit",
    "terminal": "stty raw -echo; printf '\\033c\\033]0;x\\007'; reset",
    "speaks for the driver": BROKEN,
    "prompt": "PROMPT_COMMAND=; PS1=$'\\036999\\036'; set +o emacs; echo $PS1",
    "zero bytes": "printf 'a\\0b'; \0 \ud800 é",
    "long": "x" * 100_000,
    "many lines": "echo a\n" * 20_000,
}


@pytest.mark.docker
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_commands_end_and_scripts_still_run(container, text):
    started = time.monotonic()
    output = shell(container, text, silence=1, seconds=2)
    assert len(output) <= 65536
    shell(container, "echo again", silence=1, seconds=2)
    assert bash(container, "echo $((6 * 7))") == (0, "42\n")
    assert time.monotonic() - started < 20


# Faults


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.docker
def test_a_killed_container_is_a_fault_and_none_is_taken_that_is_dead(pool):
    container = pool.take()
    docker_client().api.kill(container.name)
    with pytest.raises(ContainerFault, match=container.name[:12]):
        shell(container, "echo a")
    container.close()
    waiting = pool._started[0].result()
    docker_client().api.kill(waiting.name)
    assert eventually(lambda: not waiting.alive)
    container = pool.take()
    assert container.name != waiting.name
    assert shell(container, "echo a") == "a\n"
    container.close()
    names = {one["Id"] for one in docker_client().api.containers(all=True)}
    assert eventually(lambda: not names & {waiting.name} or waiting.name not in all_names())


def all_names() -> set[str]:
    return {one["Id"] for one in docker_client().api.containers(all=True)}


@pytest.mark.docker
def test_long_answers_come_whole_while_other_processes_end(container):
    shell(container, "(for i in $(seq 150); do sleep 0.02 & done; wait) > /dev/null 2>&1 &")
    for _ in range(12):
        assert len(bash(container, "head -c 70000 /dev/zero | tr '\\0' x")[1]) == 65536


@pytest.mark.docker
def test_a_start_that_failed_before_is_not_a_fault_now(image):
    made = ContainerPool(image, warm=2, limits=FEW)
    failed: Future[Container] = Future()
    failed.set_exception(ContainerFault("the daemon was away"))
    made._started.extend([failed, failed])
    container = made.take()
    assert shell(container, "echo a") == "a\n"
    container.close()
    made.close()


@pytest.mark.docker
def test_a_killed_network_costs_nothing(pool):
    pool.take().close()
    assert eventually(lambda: bool(pool._networks))
    for name in list(pool._networks):
        docker_client().api.kill(name)
    for _ in range(3):
        container = pool.take()
        assert shell(container, "echo a") == "a\n"
        container.close()


@pytest.mark.docker
def test_what_one_container_does_to_its_network_is_not_seen_by_the_next(image):
    with_one = ContainerPool(image, warm=0, limits=FEW)
    first = with_one.take()
    bash(first, "echo bad > /etc/hosts; chmod 777 /etc/hosts; echo nameserver 1.2.3.4 > /etc/resolv.conf")
    bash(first, "python3 -m http.server 8000 >/dev/null 2>&1 & sleep 0.5")
    first.close()
    assert eventually(lambda: bool(with_one._networks))
    second = with_one.take()
    seen = bash(second, "cat /etc/hosts /etc/resolv.conf; stat -c %a /etc/hosts; : < /dev/tcp/127.0.0.1/8000")
    assert seen[1].startswith("127.0.0.1\tlocalhost\n::1\tlocalhost\n644\n")
    assert (seen[0], "refused" in seen[1]) == (1, True)
    second.close()
    with_one.close()


@pytest.mark.docker
def test_a_full_disk_is_a_fault(image):
    full = ContainerPool(image, warm=0, limits=ContainerLimits(free_mb=1 << 40))
    with pytest.raises(ContainerFault, match="disk is full"):
        full.take()
    full.close()


# Images


def test_every_dockerfile_is_known():
    assert {"local-os/default", "local-os/packages", "local-os/ubuntu"} <= set(known())
    with pytest.raises(ValueError, match=r"no Dockerfile for image 'local-os/none'; there are .*local-os/default"):
        build(["local-os/none"])


@pytest.mark.docker
def test_images_are_built_on_a_root_file_system_and_errors_say_what_to_do(tmp_path):
    (tmp_path / "hello").write_text("hi")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "hello", "hello")
    client, said = docker_client(), []
    try:
        with pytest.raises(ImageError, match=r"/bin/sh.*--base"):  # it has none
            build(["local-os/ubuntu"], rootfs=tmp_path / "root.tar", base="cyqd/test-root", progress=said.append)
        assert any("Step 3" in line for line in said)
    finally:
        client.images.remove("cyqd/test-root", force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("cyqd/test-root")
    with pytest.raises(FileNotFoundError, match=r"root\.tgz"):
        build(rootfs=tmp_path / "root.tgz")
