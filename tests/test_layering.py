"""The drawing of the layers, held: who imports whom, who may touch which heavy library, and where formulas live.

Reads every file with ast, so imports inside functions count, and so do `import_module("name")` calls.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("wm", "data_pipeline", "launch", "tools")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

GROUND = (
    "wm.config",
    "wm.durable",
    "wm.tags",
    "wm.batch",
    "wm.paths",
    "wm.precision",
    "wm.flow",
    "wm.levels",
    "wm.time_grids",
    "wm.samplers",
    "wm.guidance",
    "wm.objectives",
    "wm.level_weights",
    "wm.ddpm",
)

# The longest fitting name on the left decides; it may import what begins with a name on the right, and its own package.
LAYERS: dict[str, tuple[str, ...]] = {
    "wm.config": (),
    "wm.durable": (),
    "wm.tags": (),
    "wm.batch": ("wm.config",),
    "wm.paths": (),
    "wm.precision": (),
    "wm.flow": ("wm.config", "wm.paths"),
    "wm.levels": ("wm.flow", "wm.config"),
    "wm.time_grids": ("wm.levels", "wm.flow", "wm.config"),
    "wm.samplers": ("wm.flow", "wm.config"),
    "wm.guidance": ("wm.flow", "wm.config"),
    "wm.objectives": ("wm.flow",),
    "wm.level_weights": ("wm.flow", "wm.config"),
    "wm.ddpm": ("wm.paths",),
    "wm.nn": GROUND,
    "wm.conditioning": ("wm.nn", *GROUND),
    "wm.models": ("wm.conditioning", "wm.nn", *GROUND),
    "wm.engine": GROUND,
    "wm.measures": GROUND,
    "wm.measures_frechet": GROUND,
    "wm.measures_clip": ("wm.measures", *GROUND),
    "wm.measures_pretrained": ("wm.measures", "wm.measures_frechet", "wm.measures_clip", *GROUND),
    "wm.losses": GROUND,
    "wm.cursor": ("wm.measures", *GROUND),
    "wm.artifact": ("wm.models", "wm.conditioning", "wm.nn", *GROUND),
    "wm.rollout": ("wm.artifact", "wm.models", "wm.conditioning", "wm.nn", *GROUND),
    "wm": ("wm",),  # what is not named above is at the height of the stages
    "data_pipeline": ("wm.config", "wm.durable", "wm.batch"),
    "launch": ("wm", "data_pipeline"),
    "tools": ("wm", "data_pipeline", "launch"),
}

# What stages may take from the engine; the rest of it they meet in launch/worker.py only.
ENGINE_FOR_STAGES = {
    "wm.engine.protocols": None,  # anything
    "wm.engine.learner": {"LearnerConfig"},
    "wm.engine.checkpoint": {"latest", "CheckpointError"},
}

HEAVY: dict[str, tuple[str, ...]] = {
    "deepspeed": ("wm/engine/zero.py",),
    "jinja2": ("launch/render.py",),
    "ray": tuple(
        f"launch/{name}.py"
        for name in ("cluster", "elastic", "everywhere", "nodes", "preemption", "prepare", "ray_runtime")
    ),
    "fsspec": ("data_pipeline/remote.py",),
    "aiohttp": ("data_pipeline/remote.py",),
    "webdataset": ("data_pipeline/bench.py",),
    "transformers": ("wm/conditioning/text.py", "wm/losses/dino.py", "wm/measures_clip.py"),
    "xformers": ("wm/nn/kernels.py",),
    "flash_attn": ("wm/nn/kernels.py",),
    "flash_attn_interface": ("wm/nn/kernels.py",),
    "torch.nn.attention.flex_attention": ("wm/nn/kernels.py",),
    "tensorboard": ("wm/engine/metrics.py",),
    "torch.utils.tensorboard": ("wm/engine/metrics.py",),
    "pydantic": ("wm/config.py",),
    "pyarrow": ("data_pipeline/tables.py",),
    "h5py": ("data_pipeline/importing/hdf5.py",),
    "gymnasium": ("data_pipeline/environments/gymnasium_world.py",),
    "minigrid": (),  # loaded by gymnasium, as are the next two; ale_py is under the GPL and must stay outside
    "vizdoom": (),
    "ale_py": (),
    "yaml": ("wm/config.py",),
}


class Import(NamedTuple):
    module: str  # what is loaded: the module, or the package whose attribute is taken
    name: str | None  # what is taken from it


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path: Path) -> Iterator[Import]:
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield Import(deeper, None) if is_module(deeper) else Import(base, alias.name)
        elif isinstance(node, ast.Call) and node.args and called(node) in ("import_module", "__import__"):
            first = node.args[0]
            assert isinstance(first, ast.Constant), f"{path}:{node.lineno} imports a module whose name is not written"
            yield Import(str(first.value), None)


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer(name: str) -> str:
    return max((key for key in LAYERS if begins(name, key)), key=len)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_down() -> None:
    wrong = []
    for path in FILES:
        own = layer(module_name(path))
        for found in imports(path):
            ours = begins(found.module, "wm") or found.module.split(".")[0] in PACKAGES
            if ours and not any(begins(found.module, allowed) for allowed in (own, *LAYERS[own])):
                wrong.append(f"{names(path)} imports {found.module}; {own} may import {LAYERS[own]}")
            if begins(module_name(path), "wm") and found.module.split(".")[0] in PACKAGES[1:]:
                wrong.append(f"{names(path)} imports {found.module}, which is above the library")
    assert wrong == []


def test_stages_know_the_engine_by_its_protocols_only() -> None:
    wrong = []
    for path in FILES:
        if not begins(module_name(path), "wm.stages"):
            continue
        for found in imports(path):
            if not begins(found.module, "wm.engine"):
                continue
            allowed = ENGINE_FOR_STAGES.get(found.module, set())
            if allowed is not None and found.name not in allowed:
                wrong.append(f"{names(path)} takes {found.name} from {found.module}")
    assert wrong == []


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_stay_in_their_files(library: str) -> None:
    users = {
        names(path) for path in FILES for found in imports(path)
        if begins(found.module, library) or (found.name and begins(f"{found.module}.{found.name}", library))
    }  # fmt: skip
    assert users <= set(HEAVY[library]), f"{library} belongs to {HEAVY[library]}"


def reached(start: str) -> set[str]:
    """All modules that loading `start` loads, ours and others', by the files' text."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        stem = ROOT / name.replace(".", "/")
        path = next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()), None)
        if path is not None:
            ahead += [found.module for found in imports(path)]
            ahead += [name.rpartition(".")[0]] if "." in name else []
    return seen


@pytest.mark.parametrize("module", ["wm.artifact", "wm.rollout"])
def test_what_serves_reaches_no_trainer_and_no_data(module: str) -> None:
    forbidden = ("wm.engine", "wm.stages", "data_pipeline", "launch", "tools", "ray", "deepspeed", "webdataset")
    assert [name for name in reached(module) if any(begins(name, prefix) for prefix in forbidden)] == []


@pytest.mark.parametrize("module", ["tools.rollout", "tools.serve", "tools.bench"])
def test_what_plays_an_artifact_reaches_no_trainer(module: str) -> None:
    forbidden = ("ray", "deepspeed", "webdataset", "launch.runtime", "launch.worker")
    assert [name for name in reached(module) if any(begins(name, prefix) for prefix in forbidden)] == []


def test_loading_what_serves_loads_nothing_heavy() -> None:
    program = "import sys, wm.artifact, wm.rollout; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"ray", "deepspeed", "webdataset", "transformers", "xformers", "tensorboard"}
    assert heavy & set(done.stdout.split()) == set()


def test_names_say_what_files_own_and_files_stay_short() -> None:
    vague = ("utils", "util", "helpers", "helper", "common", "misc")
    assert [names(p) for p in FILES if p.stem in vague or p.stem.startswith("base_") or p.stem.endswith("_v2")] == []
    assert [names(p) for p in FILES if len(p.read_text().splitlines()) > 400] == []


def test_every_file_says_what_it_owns() -> None:
    assert [
        names(p) for p in FILES if p.read_text().strip() and ast.get_docstring(ast.parse(p.read_text())) is None
    ] == []


def is_one(node: ast.expr) -> bool:
    return (isinstance(node, ast.Constant) and node.value == 1) or (
        isinstance(node, ast.Call) and called(node) == "ones_like"
    )


def test_only_flow_writes_the_formulas_of_noise() -> None:
    """`t` is the noise level and nothing else, so `1 - t` is a path's coefficient; in wm so is `1 - s` or `1 - level`."""
    wrong = []
    for path in FILES:
        if names(path) in ("wm/flow.py", "wm/paths.py"):
            continue
        level_names = {"t", "s", "level", "levels"} if begins(module_name(path), "wm") else {"t"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and is_one(node.left):
                bare = [n.id for n in ast.walk(node.right) if isinstance(n, ast.Name)]
                if isinstance(node.right, ast.Name | ast.Subscript) and set(bare[:1]) & level_names:
                    wrong.append(f"{names(path)}:{node.lineno} writes {ast.unparse(node)}")
    assert wrong == []


def test_nothing_is_loaded_loosely_or_run_by_a_shell() -> None:
    loose = {("weights_only", False), ("allow_pickle", True), ("shell", True)}
    wrong = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
                if given & loose or (called(node) == "load_state_dict" and ("strict", False) in given):
                    wrong.append(f"{names(path)}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def test_nothing_is_unpickled() -> None:
    """A pickle runs what its maker wrote: no file of ours opens one, by whatever name."""
    modules = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    calls = ("torch.load", "torch.jit.load", "torch.package.PackageImporter", "numpy.load", "np.load", "pd.read_pickle")
    # TorchScript of published metrics, from a folder that the user names: its reader makes tensors and no Python objects.
    allowed = {("wm/measures_pretrained.py", "torch.jit.load"), ("wm/losses/perceptual.py", "torch.jit.load")}
    wrong = []
    for path in FILES:
        wrong += [f"{names(path)} imports {f.module}" for f in imports(path) if f.module.split(".")[0] in modules]
        for node in ast.walk(ast.parse(path.read_text())):
            called_as = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called_as in calls and (names(path), called_as) not in allowed:
                wrong.append(f"{names(path)}:{node.lineno} calls {called_as}")
    assert wrong == []
