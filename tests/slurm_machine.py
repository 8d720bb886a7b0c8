"""A SLURM cluster of two nodes on this machine: munge, one slurmctld, two slurmd under names of their own. Needs root."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NODES = ("first", "second")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
START_SECONDS = 60.0

CONFIG = """\
ClusterName=two
SlurmctldHost=localhost
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=10
NodeName={names[0]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={names[1]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """The cluster that the commands of SLURM talk to."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": SYSTEM_PATH}

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What the command writes; CalledProcessError where it fails."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, ExitCode, Restarts and more."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """The cluster while the context lasts, its files in `folder`."""
    cluster = Slurm(folder)
    (folder / "state").mkdir()
    munge = folder / "munge"
    munge.mkdir(mode=0o711)
    (munge / "key").write_bytes(secrets.token_bytes(128))
    (munge / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, names=NODES, ports=_free_ports(3)))
    places = [f"--{name}-file={munge}/{name}" for name in ("key", "log", "pid", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={munge}/socket", *places],
        ["slurmctld", "-D", "-c"],
        *(["slurmd", "-D", "-N", name] for name in NODES),
    ]
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with open(folder / f"{len(servers)}-{command[0]}.out", "wb") as out:
                servers.append(subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=out))
            if command[0] == "munged":
                _wait((munge / "socket").exists, "munged", folder)
        _wait(lambda: cluster.run("sinfo", "--noheader", "--format=%D %t").split() == ["2", "idle"], "slurm", folder)
        yield cluster
        cluster.run("scancel", "--user=root")  # slurmd that ends before its jobs leaves their processes behind
        _wait(lambda: cluster.run("squeue", "--noheader") == "", "the end of all jobs", folder)
    finally:
        for server in reversed(servers):
            server.terminate()
        for server in servers:
            server.wait(30)


def _wait(condition: Callable[[], bool], what: str, folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if condition():
                return
        except AssertionError:  # nobody answers yet
            pass
        assert time.monotonic() < end, what + "\n".join(path.read_text() for path in folder.glob("*.log"))
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
