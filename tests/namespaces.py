"""Hosts on this machine: network namespaces with names and addresses of their own, joined by a switch. Needs root.

Each host has its own interface eth0, loopback, ports and host name, and shares the disk with the others, as the nodes of a
cluster do. A host can be cut off, joined again, and lose its processes.
"""

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("ip", "unshare")
RAY_PORT = 6379
NODE_SECONDS = 300.0  # for a node to come up on a machine that does much else
NODE_ATTEMPTS = 3  # Ray gives its own processes 30 to 120 seconds, which a loaded machine may exceed
# As the rendered clusters have it: a host that is cut off is given up after 3 times 3 + 5 seconds; by itself Ray takes 65.
HEALTH = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_failure_threshold": "3"}
_numbers = itertools.count()  # of networks that this process has made
STORE = 80 << 20  # bytes of a node's object store; Ray takes no less


def missing() -> str:
    """Why there can be no hosts here; "" where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: make system-deps"
    if os.geteuid() != 0:
        return "makes network namespaces, which takes root"
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True)
    return "" if tried.returncode == 0 else "the kernel refuses network namespaces here"


@dataclass
class Host:
    """One namespace. `name` is its host name, `address` that of its eth0."""

    name: str
    namespace: str
    address: str
    switch: str  # the namespace of the bridge
    port: str  # of the bridge, that leads here
    environment: Mapping[str, str]
    folder: Path  # for what its processes say
    _children: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def start(self, command: Sequence[str], cwd: Path, out: str) -> "subprocess.Popen[bytes]":
        """The command, running on this host; what it says goes to the file `out` in the hosts' folder."""
        with open(self.folder / out, "ab") as log:
            child = subprocess.Popen(
                self._inside(command),
                cwd=cwd,
                env=dict(self.environment),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self._children.append(child)
        return child

    def run(
        self, command: Sequence[str], seconds: float, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """What the command says on this host; TimeoutExpired after so many seconds."""
        return subprocess.run(
            self._inside(command), cwd=cwd, env=dict(self.environment), capture_output=True, text=True, timeout=seconds
        )

    def start_ray(self, head: "Host", cpus: int = 1) -> None:
        """This host becomes a node of the cluster whose head is `head`, maybe itself."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", f"--num-cpus={cpus}"]
        command += ["--num-gpus=0", f"--node-ip-address={self.address}", f"--node-name={self.name}"]
        command += [f"--object-store-memory={STORE}", "--include-log-monitor=false"]
        if head is self:
            command += ["--head", f"--port={RAY_PORT}", "--include-dashboard=false", f"--temp-dir={self.folder}/ray"]
        else:
            command += [f"--address={head.address}:{RAY_PORT}"]
        for _ in range(NODE_ATTEMPTS):
            done = self.run(command, NODE_SECONDS)
            if done.returncode == 0:
                return
            self.kill("ray")
        raise AssertionError(f"{self.name}: {done.stdout}{done.stderr}")

    def processes(self, of: str = "") -> list[int]:
        """Ids of this host's processes, of those alone whose command has the word `of`."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [number for number in map(int, listed.stdout.split()) if of in _command(number)]

    def kill(self, of: str = "") -> int:
        """End at once this host's processes, or those whose command has the word `of`; how many there were."""
        found = self.processes(of)
        for number in found:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return len(found)

    def cut(self) -> None:
        """Nothing comes in or out any more, and nobody is told."""
        self._link("down")

    def join(self) -> None:
        self._link("up")

    def close(self) -> None:
        """No process is left when this returns; a process that is starting another one needs a second look."""
        for child in self._children:
            child.kill()  # one that has just been started may not be in the namespace yet
        end = time.monotonic() + 20
        while self.kill() and time.monotonic() < end:
            time.sleep(0.1)
        for child in self._children:
            child.wait(20)

    def isolate(self) -> None:
        """Nothing passes between this host and the others that are isolated; with the rest it goes on as before."""
        ip("-n", self.switch, "link", "set", self.port, "type", "bridge_slave", "isolated", "on")

    def _link(self, state: str) -> None:
        ip("-n", self.namespace, "link", "set", "eth0", state)

    def _inside(self, command: Sequence[str]) -> list[str]:
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", *named, *command]


@contextmanager
def hosts(*names: str, **more: str) -> Iterator[list[Host]]:
    """Hosts of these names in one network while the context lasts; then their processes, folders and links are gone.

    `more` is added to their environment.
    """
    mark = f"wm{os.getpid()}-{next(_numbers)}"
    switch = f"{mark}-switch"
    folder = Path(tempfile.mkdtemp(prefix="wm", dir="/tmp"))  # short: a socket's path has room for 107 letters
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "eth0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_raylet_start_wait_time_s": "120",
        "RAY_worker_niceness": "0",  # Ray's own is 15: its workers wait for whatever else there is
        "OMP_NUM_THREADS": "1",
        **HEALTH,
        **more,
    }
    made: list[Host] = []
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            place = (name, f"{mark}-{name}", f"10.77.0.{number}", switch, f"port{number}")
            made.append(Host(*place, environment, folder))
            _wire(made[-1])
        yield made
    finally:
        for host in made:
            host.close()
        for namespace in (*(host.namespace for host in made), switch):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _wire(host: Host) -> None:
    switch, port = host.switch, host.port
    ip("netns", "add", host.namespace)
    ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
    for link in ("lo", "eth0"):
        ip("-n", host.namespace, "link", "set", link, "up")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
