"""FastVideo's latents with and without actions, from miniatures of its parquet schemas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.importing.__main__ import main
from data_pipeline.loader import DataConfig, open_batches
from data_pipeline.shards import Dataset
from wm.batch import HELD, PRESSED, RELEASED

pyarrow = pytest.importorskip("pyarrow", reason="FastVideo's tables are parquet: pip install 'wm[importing]'")
parquet = pytest.importorskip("pyarrow.parquet")

C, T, H, W, RATIO, FPS = 6, 5, 4, 7, 4, 24.0
FRAMES = (T - 1) * RATIO + 1


def tensor(name: str, values: np.ndarray, kind: str = "") -> dict[str, Any]:
    data = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else values
    return {
        f"{name}_bytes": data.tobytes(),
        f"{name}_shape": list(values.shape),
        f"{name}_dtype": kind or str(values.dtype),
    }


def latents(number: int, num_frames: int = T) -> np.ndarray:
    """Numbers that bfloat16 and float16 hold exactly."""
    return (np.random.default_rng(number).integers(-64, 64, (C, num_frames, H, W)) / 16).astype(np.float32)


def row(number: int, kind: str = "", **changes: Any) -> dict[str, Any]:
    made = {"id": f"clip{number}", **tensor("vae_latent", latents(number), kind), "caption": f"caption {number}"}
    made |= {"file_name": f"clip{number}", "media_type": "video", "width": W * 8, "height": H * 8}
    return made | {"num_frames": T, "duration_sec": FRAMES / FPS, "fps": FPS, **changes}


def keys() -> np.ndarray:
    """(FRAMES, 4): W from 2 to 6, D in 9 only, and S in 16."""
    held = np.zeros((FRAMES, 4), np.float32)
    held[2:7, 0] = held[9, 3] = held[16, 1] = 1
    return held


def camera() -> np.ndarray:
    return np.stack([np.linspace(-1, 1, FRAMES), np.full(FRAMES, 0.1)], 1).astype(np.float32)


def write(folder: Path, *files: list[dict[str, Any]]) -> None:
    for i, rows in enumerate(files):
        path = folder / f"worker_{i}" / "data_chunk_0.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


@pytest.mark.case("D-23")
def test_latents_and_captions_of_all_files(tmp_path: Path) -> None:
    write(tmp_path / "raw", [row(0), row(1), row(2, "bfloat16")], [row(3)])
    assert main(["fastvideo", str(tmp_path / "raw"), str(tmp_path / "made")]) == 0
    dataset = Dataset.open(tmp_path / "made")
    manifest = dataset.manifest
    assert (manifest.kind, manifest.fps, manifest.height, manifest.width) == ("latents", FPS / RATIO, H * 8, W * 8)
    assert manifest.latents is not None
    assert manifest.latents.stride == 8
    every = np.stack([latents(i) for i in range(4)])
    assert np.allclose(manifest.latents.mean, every.mean((0, 2, 3, 4)), atol=1e-5)
    assert np.allclose(manifest.latents.std, every.std((0, 2, 3, 4)), atol=1e-5)
    for i in range(4):
        sample = dataset.read(i)
        assert sample.latents is not None
        assert np.array_equal(sample.latents, latents(i).transpose(1, 0, 2, 3))
        assert sample.meta["caption"] == f"caption {i}"
    config = DataConfig(folder="", clip_frames=3, clip_stride=1, global_batch_size=2, num_workers=0)
    batch, _ = next(open_batches(config, tmp_path / "made", 0, 1, seed=0)(0))
    assert batch.latents is not None
    assert batch.latents.shape == (2, 3, C, H, W)


def test_a_latent_stands_for_all_that_happened_since_the_one_before(tmp_path: Path) -> None:
    acting = row(0) | tensor("mouse_cond", camera()) | tensor("keyboard_cond", keys())
    write(tmp_path / "raw", [acting])
    assert main(["fastvideo", str(tmp_path / "raw"), str(tmp_path / "made")]) == 0
    dataset = Dataset.open(tmp_path / "made")
    assert dataset.manifest.action_space.keys == ("KeyW", "KeyS", "KeyA", "KeyD")
    made = dataset.rows(0)
    spans = [slice(0, 1), *(slice(1 + RATIO * k, 1 + RATIO * (k + 1)) for k in range(T - 1))]
    for k, span in enumerate(spans):
        assert np.allclose(made["axes"][k], camera()[span].mean(0), atol=1e-6)
        assert np.array_equal(made["keys"][k, :, HELD], keys()[span][-1])
    assert np.argwhere(made["keys"][..., PRESSED]).tolist() == [[1, 0], [3, 3], [4, 1]]
    assert np.argwhere(made["keys"][..., RELEASED]).tolist() == [[2, 0], [3, 3]]


@pytest.mark.case("D-23")
def test_bad_rows_are_named(tmp_path: Path) -> None:
    actions = tensor("mouse_cond", camera()) | tensor("keyboard_cond", keys())
    short = tensor("mouse_cond", camera()[:-1]) | tensor("keyboard_cond", keys()[:-1])
    wild = tensor("mouse_cond", camera() * 3) | tensor("keyboard_cond", keys())
    huge = tensor("vae_latent", latents(5) * np.float32(1e5))
    rows = [
        row(0),
        row(1, width=W * 8 + 8),
        row(2, vae_latent_bytes=b"123"),
        row(3, vae_latent_dtype="object"),
        row(4) | huge,
    ]
    rows = [each | actions for each in rows] + [row(6) | short, row(7) | wild, row(8, fps=12.0) | actions]
    write(tmp_path / "raw", rows)
    assert main(["fastvideo", str(tmp_path / "raw"), str(tmp_path / "made")]) == 0
    assert len(Dataset.open(tmp_path / "made").clips) == 1
    bad = {
        e["episode"].split()[-1]: e["problem"] for e in json.loads((tmp_path / "made/import.json").read_text())["bad"]
    }
    words = {
        "clip1": "do not stand for",
        "clip2": "not as FastVideo writes it",
        "clip3": "'object'",
        "clip4": "float16 can hold",
        "clip6": "5 latents and 16 actions",
        "clip7": "not in [-1, 1]",
        "clip8": "has 3 frames a second, the dataset 6",
    }
    assert bad.keys() == words.keys()
    assert all(words[name] in bad[name] for name in words), bad


def test_a_rate_that_no_row_says_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "raw", [row(0, duration_sec=9.7)])
    assert main(["fastvideo", str(tmp_path / "raw"), str(tmp_path / "made")]) == 2
    assert "--fps" in capsys.readouterr().err
    assert main(["fastvideo", str(tmp_path / "raw"), str(tmp_path / "made"), "--fps", "6"]) == 0
    assert Dataset.open(tmp_path / "made").manifest.fps == 6.0
    assert (
        main(
            ["fastvideo", str(tmp_path / "raw"), str(tmp_path / "other"), "--fps", "6", "--height", "8", "--width", "8"]
        )
        == 2
    )
    assert "cannot be scaled" in capsys.readouterr().err
    (tmp_path / "none.parquet").parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "none.parquet")
    assert main(["fastvideo", str(tmp_path / "none.parquet"), str(tmp_path / "none")]) == 2
    assert "not FastVideo's" in capsys.readouterr().err
