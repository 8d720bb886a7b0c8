"""`python -m launch.doctor [CONFIG] [--root ROOT] [--address ADDRESS]`: one line a probe, and what to do about it.

Looks at this machine, or at every node of the Ray cluster at `--address`. With a stage file also at what that needs.
"""

import argparse
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from torch.distributed import TCPStore

from data_pipeline.shards import Dataset
from launch import bandwidth, plan_costs, probes
from launch.bandwidth import Link
from launch.entry import BAD_INPUT, FAILED, OK, explain
from launch.precision import fastest, with_precision
from launch.run_config import RunConfig, TrainingConfig, load_run
from launch.worker import facts_of
from wm.engine.learner import LearnerConfig, LocalLearner
from wm.engine.world import World
from wm.stages.context import StageContext

GIB = plan_costs.GIB
LEAST_FREE = 5 * GIB  # of storage, for checkpoints and metrics
LEAST_SHARED_MEMORY = 1 * GIB  # Ray's object store and the loaders' workers lie there
MOST_SKEW = 2.0  # seconds between two nodes' clocks, the time of asking included
MASTER_PORT = 29500  # torch's usual one

Facts = dict[str, Any]


class Finding(NamedTuple):
    probe: str
    well: bool
    text: str  # what was found and, where that is not well, what to do


def main(argv: Sequence[str] | None = None) -> int:
    """0 all well, 1 a probe failed, 2 wrong input."""
    arguments = _parser().parse_args(argv)
    try:
        run = load_run(arguments.config) if arguments.config else None
        name = arguments.config.resolve().parent.name if arguments.config else ""
        root = arguments.root or Path("runs") / name
        found, links = nodes(root, arguments.address)
        findings = list(diagnose(found, run, root, links))
    except (ValueError, OSError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return BAD_INPUT
    for finding in findings:
        print(f"{'ok  ' if finding.well else 'FAIL'} {finding.probe:<15} {finding.text}")
    return OK if all(finding.well for finding in findings) else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch.doctor", description="What is wrong with these machines?")
    parser.add_argument("config", type=Path, nargs="?", help="stage file, as configs/desktop_sim/dit.yaml")
    parser.add_argument("--root", type=Path, help="folder of the outputs; default runs/<name of the config folder>")
    parser.add_argument("--address", help="of a Ray cluster: every node is looked at")
    return parser


def nodes(root: Path, address: str | None) -> tuple[list[Facts], list[Link]]:
    """The facts of this machine, or of every node of the cluster and the links between them.

    Each node's facts have `skew`, its clock against ours in seconds.
    """
    if address is None:
        return [probes.facts(str(root)) | {"skew": 0.0}], []
    from launch.cluster import Cluster

    with Cluster(address):
        return asked_everywhere(root.resolve())


def asked_everywhere(root: Path) -> tuple[list[Facts], list[Link]]:
    from launch import everywhere

    there = everywhere.alive()
    asked = time.time()
    found = everywhere.on_nodes(there, probes.facts, [[str(root)]] * len(there))
    answered = time.time()
    store = TCPStore(everywhere.own_address(), 0, is_master=True, wait_for_workers=False)

    def meet(pairs: Sequence[tuple[int, int]], mark: str) -> list[Link]:
        who = [there[number] for pair in pairs for number in pair]
        told = [[store.host, store.port, f"{mark}/{pair}", rank] for pair in pairs for rank in (0, 1)]
        answers = everywhere.answers(who, bandwidth.reduce_with, told, bandwidth.PAIR_SECONDS)
        said = [(0.0, everywhere.line(answer)) if isinstance(answer, Exception) else answer for answer in answers]
        return [
            Link(*pair, min(one[0], other[0]), one[1] or other[1])
            for pair, one, other in zip(pairs, said[::2], said[1::2], strict=True)
        ]

    links = bandwidth.every_pair(len(there), meet)
    return [f | {"skew": max(0.0, asked - f["clock"], f["clock"] - answered)} for f in found], links


def diagnose(
    found: Sequence[Facts], run: RunConfig | None, root: Path, links: Sequence[Link] = ()
) -> Iterator[Finding]:
    """Every probe's line."""
    yield same_versions(found)
    yield enough_gpus(found, run)
    yield one_interface(found)
    if links:
        yield Finding("bandwidth", *bandwidth.judge(links, [f["host"] for f in found]))
    yield each("shared memory", found, shared_memory)
    yield each("clock", found, clock)
    yield each("storage", found, storage)
    yield port(MASTER_PORT)
    if run is not None and run.source:
        yield _shards_of(run, root)
    if run is not None and run.trains:
        yield from memory(run, root, found)


def each(probe: str, found: Sequence[Facts], judge: Callable[[Facts], tuple[bool, str]]) -> Finding:
    """The first node that is not well, else what the first one says."""
    judged = [(f["host"], *judge(f)) for f in found]
    host, well, text = next((item for item in judged if not item[1]), judged[0])
    return Finding(probe, well, f"{host}: {text}" if len(found) > 1 else text)


def same_versions(found: Sequence[Facts]) -> Finding:
    first = found[0]["versions"]
    for other in found[1:]:
        names = [n for n in first.keys() | other["versions"].keys() if first.get(n) != other["versions"].get(n)]
        if names:
            differing = ", ".join(f"{n} {first.get(n)} and {other['versions'].get(n)}" for n in sorted(names))
            return Finding(
                "versions", False, f"{found[0]['host']} and {other['host']} have {differing}; run make setup on all"
            )
    return Finding("versions", True, ", ".join(f"{name} {version}" for name, version in first.items()))


def enough_gpus(found: Sequence[Facts], run: RunConfig | None) -> Finding:
    there = [gpu for f in found for gpu in f["gpus"]]
    needed = run.resources.fewest * run.resources.gpus_per_worker if run is not None else 0
    kinds = sorted({f"{name}, {size / GIB:.0f} GiB" for name, size in there})
    text = f"{len(there)} ({'; '.join(kinds)})" if there else "none; the CPU computes"
    if needed > len(there):
        return Finding("GPUs", False, f"{text}; the file asks for {needed:g}: lower resources.num_workers or add nodes")
    return Finding("GPUs", True, text)


def one_interface(found: Sequence[Facts]) -> Finding:
    """gloo and NCCL pick an interface on each node; the same name everywhere is what can be set for all."""
    names = sorted({f["interface"].name for f in found})
    text = ", ".join(f"{f['interface'].name} {f['interface'].address or 'is not there'}" for f in found)
    chosen = all(f["interface"].chosen for f in found)
    if any(not f["interface"].address for f in found):
        absent = next(f for f in found if not f["interface"].address)
        text = f"{text}: {absent['host']} has only {', '.join(absent['interface'].others)}"
        return Finding("network", False, f"{text}; give GLOO_SOCKET_IFNAME the name of one that joins the nodes")
    if not chosen and len(names) > 1:
        return Finding("network", False, f"{text}: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to {','.join(names)}")
    return Finding("network", True, text + ("; GLOO_SOCKET_IFNAME says so" if chosen else "; the route out of each"))


def shared_memory(facts: Facts) -> tuple[bool, str]:
    free = facts["shared_memory"]
    text = f"{free / GIB:.1f} GiB free in /dev/shm"
    return free >= LEAST_SHARED_MEMORY, text if free >= LEAST_SHARED_MEMORY else (
        f"{text}, needed is 1 GiB; in a container give --shm-size=2g, in Kubernetes an emptyDir of medium Memory"
    )


def clock(facts: Facts) -> tuple[bool, str]:
    well = facts["skew"] <= MOST_SKEW
    text = f"at most {facts['skew']:.1f} s off"
    return well, text if well else f"{text} this machine's; run an NTP client on both"


def storage(facts: Facts) -> tuple[bool, str]:
    result = facts["storage"]
    if "error" in result:
        return False, f"{result['error']}; give a --root that every node can write"
    text = f"8 MiB written, synced, renamed and read in {result['seconds']:.2f} s, {result['free'] / GIB:.0f} GiB free"
    well = result["free"] >= LEAST_FREE
    return well, text if well else f"{text}; checkpoints need more: make room or lower loop.keep_last"


def port(number: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except OSError as error:
            return Finding("ports", False, f"{number} cannot be bound ({error.strerror}); give torchrun --master-port")
    return Finding("ports", True, f"{number} is free for torchrun; Ray chooses its own")


def _shards_of(run: RunConfig, root: Path) -> Finding:
    try:
        return shards(run.located(root, run.source))
    except (ValueError, OSError) as error:
        return Finding("shards", False, explain(error))


def shards(folder: Path) -> Finding:
    """Index and sizes of every shard, and the first clip read with its checksums."""
    began = time.monotonic()
    try:
        dataset = Dataset.open(folder)
        dataset.read(0, 0, 1)
    except (ValueError, OSError) as error:
        return Finding("shards", False, explain(error))
    seconds = time.monotonic() - began
    return Finding("shards", True, f"{folder}: {len(dataset.clips)} clips, opened and one read in {seconds:.2f} s")


def memory(run: RunConfig, root: Path, found: Sequence[Facts]) -> Iterator[Finding]:
    """What a worker's learners hold at each ZeRO stage against what it has."""
    on_gpu = run.resources.gpus_per_worker > 0
    try:
        learners = learners_of(with_precision(run, fastest(on_gpu)), root)
    except (ValueError, OSError) as error:
        yield Finding("memory", False, f"the model cannot be built yet: {explain(error)}")
        return
    workers = run.resources.num_workers
    if on_gpu:
        there = min((size for f in found for _, size in f["gpus"]), default=0)
    else:
        there = sum(f["memory"] for f in found) // workers
    needs = [
        sum(plan_costs.memory(n, config, zero, workers, on_gpu).total for n, config in learners) for zero in range(4)
    ]
    chosen = max(config.zero_stage for _, config in learners)
    numel = sum(n for n, _ in learners)
    estimates = ", ".join(f"ZeRO {zero} {need / GIB:.2f}" for zero, need in enumerate(needs))
    text = f"{numel / 1e6:.1f} M parameters on {workers} workers: {estimates} GiB each without activations, {there / GIB:.0f} there"
    well = needs[chosen] < there
    yield Finding(
        "memory", well, text if well else f"{text}; raise stage.learner.zero_stage or resources.num_workers, or offload"
    )


def learners_of(run: RunConfig, root: Path) -> list[tuple[int, LearnerConfig]]:
    """Trained parameters and config of each of the stage's learners."""
    held: list[tuple[int, LearnerConfig]] = []
    world = World.single()

    def make(module: nn.Module, config: LearnerConfig) -> LocalLearner:
        held.append((sum(p.numel() for p in module.parameters() if p.requires_grad), config))
        return LocalLearner(module, config, num_steps=1, world=world)

    manifest = Dataset.open(run.located(root, run.source)).manifest
    assert isinstance(run.stage, TrainingConfig), f"{run.kind} does not train"
    context = StageContext(
        root=root, make_learner=make, device=world.device, seed=run.seed, num_steps=1, facts=facts_of(manifest)
    )
    run.stage.build(context)
    return held


if __name__ == "__main__":
    raise SystemExit(main())
