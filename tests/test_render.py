"""What launch.render writes is what SLURM, KubeRay and Ray's cluster launcher accept, and holds no secret."""

import functools
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from launch import nodes, render
from launch.entry import BAD_INPUT, OK, StageError
from launch.run_config import load_run

HERE = Path(__file__).parent.parent
CONFIGS = HERE / "configs"
# The custom resource definitions of KubeRay, as its release holds them.
DEFINITIONS = Path(os.environ.get("KUBERAY_CRDS") or HERE.parent / "shared" / "data" / "kuberay")
CLOUD = ("--storage", "10.0.0.5:/export", "--image", "some-image", "--instance", "some.machine")
SIZES = [(1, 8), (2, 4), (16, 1), (3, 0)]


def rendered(folder: Path, *arguments: str) -> list[Path]:
    assert render.main([*arguments, "--out", str(folder)]) == OK
    return sorted(folder.iterdir())


def sized(num_nodes: int, gpus: int) -> list[str]:
    return ["--nodes", str(num_nodes), "--gpus", str(gpus), "--cpus", "16", "data.global_batch_size=48"]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def directives(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --")]
    return dict(line.partition("=")[::2] for line in lines)


@pytest.mark.case("L-08")
@pytest.mark.parametrize(("num_nodes", "gpus"), SIZES)
def test_the_sbatch_script_is_bash_and_asks_for_what_was_said(num_nodes: int, gpus: int, tmp_path: Path) -> None:
    (path,) = rendered(
        tmp_path, "slurm", str(CONFIGS / "desktop" / "dit.yaml"), *sized(num_nodes, gpus), "--hours", "5"
    )
    subprocess.run(["bash", "-n", str(path)], check=True)
    asked = directives(path.read_text())
    assert asked["nodes"] == str(num_nodes)
    assert asked["cpus-per-task"] == "16"
    assert asked.get("gpus-per-node") == (str(gpus) if gpus else None)
    assert asked["time"] == "5:00:00"
    assert asked["signal"] == "B:USR1@300"


@pytest.mark.parametrize(("num_nodes", "gpus"), SIZES)
def test_the_command_in_a_script_uses_every_gpu_once(num_nodes: int, gpus: int, tmp_path: Path) -> None:
    config = CONFIGS / "desktop" / "dit.yaml"
    placed = render.placed(config, ["data.global_batch_size=48"], num_nodes, gpus, 16)
    resources = load_run(config, placed).resources
    assert resources.num_workers == num_nodes * (gpus or 1)
    assert resources.gpus_per_worker == min(gpus, 1)
    assert resources.num_workers * resources.cpus == num_nodes * 16
    (path,) = rendered(tmp_path, "slurm", str(config), *sized(num_nodes, gpus))
    assert shlex.join(["-m", "launch.run", str(config), *placed]) in path.read_text()


def test_a_pipeline_lays_out_every_stage(tmp_path: Path) -> None:
    (path,) = rendered(tmp_path, "slurm", str(CONFIGS / "smoke"), "--nodes", "2", "--gpus", "1", "--cpus", "6")
    script = path.read_text()
    assert f"-m launch.pipeline {CONFIGS / 'smoke'}" in script
    assert (
        "record.resources.num_workers=12 record.resources.cpus_per_worker=1 record.resources.gpus_per_worker=0"
        in script
    )
    for stage in ("vae", "encode", "dit", "distill", "evaluate"):
        assert f"{stage}.resources.num_workers=2 {stage}.resources.cpus_per_worker=6" in script
    assert "export.resources" not in script


@pytest.mark.case("L-09")
@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
@pytest.mark.parametrize(("num_nodes", "gpus"), SIZES)
def test_kuberay_manifests_fit_the_definitions(kind: str, num_nodes: int, gpus: int, tmp_path: Path) -> None:
    definition = DEFINITIONS / f"ray.io_{kind}s.yaml"
    if not definition.exists():
        pytest.skip("KubeRay's definitions are not here; KUBERAY_CRDS names the folder that holds ray.io_*.yaml")
    rendered(tmp_path, "kuberay", str(CONFIGS / "desktop" / "dit.yaml"), *sized(num_nodes, gpus))
    manifest = documents(tmp_path / f"wm-desktop-dit-{kind}.yaml")[0]
    validator = jsonschema.Draft7Validator(schema_of(definition, manifest["apiVersion"]))
    validator.validate(manifest)
    manifest["spec"]["rayClusterConfig"] = {}  # as it was called before
    assert not validator.is_valid(manifest)


@functools.cache
def schema_of(definition: Path, version: str) -> Any:
    """The schema of `version` in a custom resource definition."""
    tree = yaml.load(definition.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [
        one["schema"] for one in tree["spec"]["versions"] if f"{tree['spec']['group']}/{one['name']}" == version
    ]
    return closed(schema["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """`schema` of Kubernetes as JSON schema: what it does not name is refused, as a strict `kubectl apply` does."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    tree = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        tree["additionalProperties"] = False
    return tree


def test_the_definitions_refuse_what_they_do_not_know() -> None:
    schema = closed(
        {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    )
    jsonschema.validate({"spec": {"a": "x"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"spec": {"b": "x"}}, schema)


@pytest.mark.case("L-09")
def test_kuberay_asks_for_tokens_limits_and_an_end(tmp_path: Path) -> None:
    rendered(tmp_path, "kuberay", str(CONFIGS / "desktop" / "dit.yaml"), *sized(2, 4), "--hours", "3")
    job, policy = documents(tmp_path / "wm-desktop-dit-rayjob.yaml")
    cluster, _ = documents(tmp_path / "wm-desktop-dit-raycluster.yaml")
    spec = job["spec"]
    assert (spec["activeDeadlineSeconds"], spec["shutdownAfterJobFinishes"]) == (3 * 3600, True)
    assert {"backoffLimit", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished"} <= spec.keys()
    for one in (spec["rayClusterSpec"], cluster["spec"]):
        assert one["authOptions"] == {"mode": "token"}
        (workers,) = one["workerGroupSpecs"]
        assert workers["replicas"] == 2
        (container,) = workers["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
        assert workers["template"]["metadata"]["labels"].items() >= policy["spec"]["podSelector"]["matchLabels"].items()
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    assert policy["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize(("num_nodes", "gpus"), SIZES)
def test_cluster_files_are_what_ray_up_takes(cloud: str, num_nodes: int, gpus: int, tmp_path: Path) -> None:
    config = str(CONFIGS / "desktop" / "dit.yaml")
    more = ("--cloud", cloud, "--project", "some-project", *CLOUD)
    (path,) = rendered(tmp_path, "ray-cluster", config, *sized(num_nodes, gpus), *more)
    (tree,) = documents(path)
    schema = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(tree, json.loads(schema.read_text()))
    assert tree["max_workers"] == tree["available_node_types"]["node"]["min_workers"] == num_nodes - 1
    for command in (tree["head_start_ray_commands"][-1], tree["worker_start_ray_commands"][-1]):
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in tree["head_start_ray_commands"][-1]
    (run,) = [line.removeprefix("#   ") for line in path.read_text().splitlines() if line.startswith("#   ray exec")]
    assert shlex.split(run)[3].endswith("--root /shared/desktop --address auto")


@pytest.mark.case("L-09")
def test_no_secret_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-this-environment")
    config = str(CONFIGS / "smoke" / "dit.yaml")
    for target in (("slurm",), ("kuberay",), ("ray-cluster", *CLOUD)):
        rendered(tmp_path, target[0], config, "--nodes", "2", "--gpus", "1", *target[1:])
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert "a-token-of" not in text
        assert "token" in text
        assert "kind: Secret" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["slurm", "dit.yaml", "--nodes", "3", "--gpus", "1"], "global_batch_size 4 does not divide among 3 workers"),
        (["slurm", "dit.yaml", "--nodes", "0", "--gpus", "1"], "--nodes 0 must be at least 1"),
        (["slurm", "none.yaml", "--nodes", "1", "--gpus", "1"], "no config file"),
        (["slurm", "dit.yaml", "--nodes", "1", "--gpus", "1", "--name", "7th"], "it must begin with a letter"),
        (["kuberay", "dit.yaml", "--nodes", "1", "--gpus", "1", "--root", "runs/x"], "must be an absolute path"),
        (["ray-cluster", "dit.yaml", "--nodes", "1", "--gpus", "1"], "give --instance"),
        (["ray-cluster", "dit.yaml", "--nodes", "1", "--gpus", "0"], "give --storage"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, config, *rest = arguments
    assert render.main([target, str(CONFIGS / "smoke" / config), *rest, "--out", str(tmp_path)]) == BAD_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.case("L-10")
def test_nodes_are_waited_for_and_the_missing_ones_named() -> None:
    joined = iter([{"a"}, {"a", "b"}, {"a", "b", "c"}])
    assert nodes.wait_for(["b", "c"], 0, lambda: next(joined), timeout=60.0, pause=0.0) == {"a", "b", "c"}
    with pytest.raises(StageError, match=r"1 of 3 nodes joined within 0 s; missing: b, d"):
        nodes.wait_for(["b", "a", "d"], 0, lambda: {"a"}, timeout=0.0, pause=0.01)
    with pytest.raises(StageError, match=r"2 of 4 nodes joined within 0 s; there: a, b"):
        nodes.wait_for([], 4, lambda: {"b", "a"}, timeout=0.0, pause=0.01)
