"""A host with two networks (a namespace): which one is taken is said, is the one that was chosen, and carries the tensors."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.namespaces import Host, hosts, ip, missing

HERE = Path(__file__).parent.parent
FIRST, SECOND = "10.77.0.1", "10.88.0.1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "there can be hosts"),
]

# Two ranks of gloo; rank 0 then tells the addresses at this host's ends of its connections.
REDUCE = """
import json, os, socket, struct, sys
import torch, torch.distributed as dist
from pathlib import Path
from wm.engine.world import World
if os.environ["RANK"] == "0" and os.fork() == 0:
    os.environ["RANK"] = "1"
World.from_environment("cpu", timeout_seconds=60)
dist.init_process_group("gloo") if not dist.is_initialized() else None
dist.all_reduce(torch.ones(1000))
if os.environ["RANK"] == "0":
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {socket.inet_ntoa(struct.pack("<I", int(row[1].split(":")[0], 16))) for row in rows if row[3] == "01"}
    print(json.dumps(sorted(ends)))
dist.barrier()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with hosts("both") as (one,):
        ip("-n", one.namespace, "link", "add", "ib0", "type", "veth", "peer", "name", "cable")
        ip("-n", one.namespace, "address", "add", f"{SECOND}/24", "dev", "ib0")
        for end in ("ib0", "cable"):
            ip("-n", one.namespace, "link", "set", end, "up")
        yield one


def chosen(name: str) -> list[str]:
    return ["env", "-u", "GLOO_SOCKET_IFNAME", *([f"GLOO_SOCKET_IFNAME={name}"] if name else [])]


@pytest.mark.case("L-11")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eth0", f"eth0 {FIRST}; GLOO_SOCKET_IFNAME says so"),
        ("ib0", f"ib0 {SECOND}; GLOO_SOCKET_IFNAME says so"),
        ("ib1", "ib1 is not there: both has only lo, "),
    ],
)
def test_the_doctor_says_which_network_is_taken(host: Host, tmp_path: Path, name: str, said: str) -> None:
    command = [*chosen(name), sys.executable, "-m", "launch.doctor", "--root", str(tmp_path)]
    told = host.run(command, 120, HERE)
    assert said in told.stdout, told.stdout + told.stderr


@pytest.mark.case("L-11")
@pytest.mark.parametrize(("name", "address"), [("eth0", FIRST), ("ib0", SECOND)])
def test_tensors_go_by_the_network_that_was_chosen(host: Host, name: str, address: str) -> None:
    place = ["RANK=0", "WORLD_SIZE=2", "LOCAL_RANK=0", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29511"]
    told = host.run([*chosen(name), *place, sys.executable, "-c", REDUCE], 120, HERE)
    assert told.returncode == 0, told.stderr
    ends = json.loads(told.stdout.strip().splitlines()[-1])
    assert address in ends
    assert not {FIRST, SECOND} - {address} & set(ends)
