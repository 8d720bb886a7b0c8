"""Files that start a run on a cluster, from its config: `python -m launch.render slurm|kuberay|ray-cluster CONFIG --nodes N --gpus M`.

CONFIG is a stage file or a folder of them, as for launch.run and launch.pipeline. The templates are plain files under
templates/; every node is used whole, one worker a GPU, or a node where there are no GPUs.
"""

import argparse
import importlib.metadata
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from launch.entry import OK, REQUEUE, guarded
from launch.pipeline import load_steps
from launch.run_config import RunConfig, load_run
from wm.config import ConfigError

TEMPLATES = Path(__file__).parent / "templates"
# Machines of eight GPUs of the clouds, and of none.
INSTANCES = {"aws": {8: "p5.48xlarge", 0: "m7i.4xlarge"}, "gcp": {8: "a3-highgpu-8g", 0: "n2-standard-16"}}


@dataclass(frozen=True)
class Target:
    """What is rendered for one kind of cluster."""

    values: dict[str, Any]  # what the templates read
    files: dict[str, str]  # template: the file that it becomes
    command: str  # that takes the first of them


def main(argv: Sequence[str] | None = None) -> int:
    """0 written, 2 wrong input."""
    arguments = parser().parse_intermixed_args(argv)
    command = shlex.join(["python", "-m", "launch.render", *(sys.argv[1:] if argv is None else argv)])
    return guarded(lambda: write(arguments), command, show_traceback=False)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch.render", description="Write the files that start a run on a cluster."
    )
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("config", type=Path, help="stage file, or folder of stage files for the whole pipeline")
    parser.add_argument("overrides", nargs="*", help="changes of the files, as for launch.run and launch.pipeline")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True, help="of one node; 0 computes on the CPU")
    parser.add_argument("--cpus", type=int, help="cores of one node; default 12 a GPU, 8 without GPUs")
    parser.add_argument("--memory", type=int, help="GiB of one node (kuberay); default 128 a GPU, 32 without GPUs")
    parser.add_argument(
        "--root", help="folder of the outputs, the same on all nodes; default runs/WORLD (slurm), /shared/WORLD"
    )
    parser.add_argument("--name", help="of the job; default wm-<config>")
    parser.add_argument("--out", type=Path, default=Path("cluster"), help="folder to write to; default cluster")
    parser.add_argument("--hours", type=int, default=24, help="limit of the run's time")
    parser.add_argument("--wait", type=int, default=600, help="seconds in which all nodes must join")
    parser.add_argument("--notice", type=int, default=300, help="seconds before the limit to save and stop")
    parser.add_argument("--python", default=sys.executable, help="on the nodes (slurm); default the one that runs this")
    parser.add_argument("--partition", help="slurm: default the cluster's")
    parser.add_argument("--image", help="kuberay: container with this checkout in /wm, default wm; else machine image")
    parser.add_argument("--claim", default="wm", help="kuberay: persistent volume claim that holds the outputs")
    parser.add_argument("--cloud", choices=INSTANCES, default="aws", help="ray-cluster")
    parser.add_argument("--instance", help="ray-cluster: machine type; has a default for 8 and for 0 GPUs")
    parser.add_argument("--region", help="ray-cluster: default us-west-2, us-central1")
    parser.add_argument("--zone", help="ray-cluster: default the region's zone a")
    parser.add_argument("--project", help="ray-cluster on gcp: id of the project")
    parser.add_argument("--storage", help="ray-cluster: HOST:/EXPORT of the NFS server that holds the outputs")
    return parser


def write(arguments: argparse.Namespace) -> int:
    _check(arguments)
    root, describe = TARGETS[arguments.target]
    target = describe(arguments, _values(arguments, root))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for template, name in target.files.items():
        path = arguments.out / name
        path.write_text(render(template, target.values))
        print(f"wrote {path}")
    print(f"next: {target.command} {arguments.out / next(iter(target.files.values()))}")
    return OK


def render(template: str, values: dict[str, Any]) -> str:
    """The text of `template`, a path under templates/; jinja2.UndefinedError where it names what `values` lacks."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        comment_start_string="<#",  # the usual one is how bash counts an array
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A word of a shell, and a scalar of YAML (which JSON is a part of).
    environment.filters |= {"sh": shlex.quote, "json": json.dumps}
    return environment.get_template(template).render(values)


def _check(arguments: argparse.Namespace) -> None:
    if arguments.nodes < 1 or arguments.gpus < 0:
        raise ConfigError(f"--nodes {arguments.nodes} must be at least 1 and --gpus {arguments.gpus} not negative")
    for name in ("cpus", "memory", "hours", "wait", "notice"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} must be at least 1")


def _values(arguments: argparse.Namespace, default_root: str) -> dict[str, Any]:
    """What the templates of every target read."""
    nodes, gpus = arguments.nodes, arguments.gpus
    cpus = arguments.cpus or (12 * gpus or 8)
    folder = arguments.config if arguments.config.is_dir() else arguments.config.parent
    world = folder.resolve().name
    words = [world] if arguments.config.is_dir() else [world, arguments.config.stem]
    root = arguments.root or f"{default_root}/{world}"
    command = [
        *("-m", "launch.pipeline" if arguments.config.is_dir() else "launch.run", str(arguments.config)),
        *placed(arguments.config, arguments.overrides, nodes, gpus, cpus),
        *("--root", root),
    ]
    return {
        "name": _name(arguments.name or "-".join(["wm", *words])),
        "title": " ".join(words),
        "nodes": nodes,
        "gpus": gpus,
        "cpus": cpus,
        "memory": arguments.memory or (128 * gpus or 32),
        "root": root,
        "arguments": shlex.join(command),
        "hours": arguments.hours,
        "wait_seconds": arguments.wait,
        "notice_seconds": arguments.notice,
        "ray_version": importlib.metadata.version("ray"),
    }


def placed(config: Path, overrides: Sequence[str], nodes: int, gpus: int, cpus: int) -> list[str]:
    """`overrides`, after those that lay the stages of `config` out over the nodes; ConfigError where one cannot be."""
    if config.is_dir():
        steps = load_steps(config, Path(), overrides, hours=0.0)
        layout = [f"{step.name}.{one}" for step in steps for one in _layout(step.run, nodes, gpus, cpus)]
        runs = [step.run for step in load_steps(config, Path(), [*layout, *overrides], hours=0.0)]
    else:
        layout = list(_layout(load_run(config, overrides), nodes, gpus, cpus))
        runs = [load_run(config, [*layout, *overrides])]
    for run in runs:
        if run.trains:
            run.share(run.resources.num_workers)
    return [*layout, *overrides]


def _layout(run: RunConfig, nodes: int, gpus: int, cpus: int) -> Iterator[str]:
    """The resources of a stage that uses the nodes whole. Recording takes cores only, exporting next to nothing."""
    if run.kind == "export":
        return
    workers = cpus if run.kind == "record" else gpus or 1
    yield f"resources.num_workers={nodes * workers}"
    yield f"resources.cpus_per_worker={cpus / workers:g}"
    yield f"resources.gpus_per_worker={0 if run.kind == 'record' else min(gpus, 1)}"


def _name(text: str) -> str:
    """`text` as Kubernetes and the clouds allow names: small letters, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or len(name) > 40 or not name[0].isalpha():
        raise ConfigError(
            f"name {text!r} becomes {name!r}; it must begin with a letter and have at most 40: give --name"
        )
    return name


def _slurm(arguments: argparse.Namespace, values: dict[str, Any]) -> Target:
    own = {"python": arguments.python, "partition": arguments.partition, "requeue_code": REQUEUE}
    return Target(values | own, {"slurm.sbatch": f"{values['name']}.sbatch"}, "sbatch")


def _kuberay(arguments: argparse.Namespace, values: dict[str, Any]) -> Target:
    name = values["name"]
    own = {"image": arguments.image or "wm", "claim": arguments.claim, "shared": _parent(values["root"])}
    files = {"kuberay/rayjob.yaml": f"{name}-rayjob.yaml", "kuberay/raycluster.yaml": f"{name}-raycluster.yaml"}
    return Target(values | own, files, "kubectl apply -f")


def _ray_cluster(arguments: argparse.Namespace, values: dict[str, Any]) -> Target:
    cloud = arguments.cloud
    instance = arguments.instance or INSTANCES[cloud].get(arguments.gpus)
    region = arguments.region or {"aws": "us-west-2", "gcp": "us-central1"}[cloud]
    if instance is None:
        raise ConfigError(f"give --instance: the machine type of {cloud} that has {arguments.gpus} GPUs")
    needs = {
        "storage": "the NFS server where all nodes write, as 10.0.0.5:/export",
        "image": "the machines' disk image",
    }
    if cloud == "gcp":
        needs["project"] = "the id of the project that pays"
    for name, what in needs.items():
        if not getattr(arguments, name):
            raise ConfigError(f"ray-cluster on {cloud}: give --{name}, {what}")
    own = {name: getattr(arguments, name) for name in ("image", "storage", "project")}
    zone = arguments.zone or (f"{region}a" if cloud == "aws" else f"{region}-a")
    file = f"{values['name']}-{cloud}.yaml"
    own |= {"file": file, "instance": instance, "region": region, "zone": zone, "shared": _parent(values["root"])}
    return Target(values | own, {f"ray_cluster/{cloud}.yaml": file}, "ray up")


def _parent(root: str) -> str:
    """The folder where the shared storage is mounted, for outputs under `root`."""
    if not Path(root).is_absolute() or Path(root).parent == Path("/"):
        raise ConfigError(f"--root {root} must be an absolute path of at least two folders, as /shared/desktop")
    return str(Path(root).parent)


# By target: where outputs go unless --root says, and what is rendered.
TARGETS: dict[str, tuple[str, Callable[[argparse.Namespace, dict[str, Any]], Target]]] = {
    "slurm": ("runs", _slurm),
    "kuberay": ("/shared", _kuberay),
    "ray-cluster": ("/shared", _ray_cluster),
}


if __name__ == "__main__":
    sys.exit(main())
