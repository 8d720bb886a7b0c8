"""A recording is what its schema says, and its rows become an Action and back."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.schema import (
    CursorImage,
    DataError,
    DatasetManifest,
    LatentStatistics,
    Sample,
    ShardEntry,
    changed_fraction,
    check,
    to_action,
    to_rows,
)
from wm.batch import ActionSpace
from wm.config import from_dict, to_dict

T, H, W, BUTTONS, KEYS, AXES = 7, 10, 12, 2, 5, 1


def sample(**changes: Any) -> Sample:
    rng = np.random.default_rng(0)
    shapes = {"pointer": (2,), "buttons": (BUTTONS, 3), "keys": (KEYS, 3), "wheel": (2,), "axes": (AXES,)}
    made = Sample(
        key="clip-000",
        actions={name: rng.random((T, *shape), dtype=np.float32) for name, shape in shapes.items()},
        meta={"fps": 10.0, "events": [[f"e{i}"] for i in range(T)], "seed": 3},
        video=rng.integers(0, 255, (T, H, W, 3), dtype=np.uint8),
    )
    return dataclasses.replace(made, **changes)


def with_rows(**rows: np.ndarray) -> dict[str, np.ndarray]:
    return sample().actions | rows


def test_rows_become_an_action_and_back() -> None:
    rows = sample().actions
    action = to_action(rows)
    assert action.keys.shape == (1, T, KEYS, 3)
    assert action.pointer.dtype == torch.float32
    assert all(np.array_equal(rows[name], back) for name, back in to_rows(action).items())


def test_a_window_cuts_all_that_has_one_value_a_frame() -> None:
    whole = sample()
    cut = whole.window(2, 3)
    assert len(cut) == 3
    assert cut.meta["num_frames"] == 3
    assert cut.meta["events"] == [["e2"], ["e3"], ["e4"]]
    assert cut.meta["seed"] == 3
    assert np.array_equal(cut.video, whole.video[2:5])
    assert np.array_equal(cut.actions["keys"], whole.actions["keys"][2:5])


def test_changed_fraction_counts_pixels_not_channels() -> None:
    video = np.zeros((3, 4, 5, 3), np.uint8)
    video[1:, 0, 0] = (1, 2, 3)
    video[2, 1, 1:3, 0] = 9
    assert np.allclose(changed_fraction(video), [0, 1 / 20, 2 / 20])


def test_a_good_sample_passes() -> None:
    check(sample())
    check(sample(video=None, latents=np.zeros((T, 4, 2, 3), np.float16)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"key": "a.b"}, "dots"),
        ({"actions": {"pointer": np.zeros((T, 2), np.float32)}}, "need"),
        ({"actions": with_rows(pointer=np.zeros((T, 3), np.float32))}, "pointer"),
        ({"actions": with_rows(wheel=np.zeros((T, 2)))}, "float64"),
        ({"actions": with_rows(axes=np.zeros((T - 1, 1), np.float32))}, "axes"),
        ({"actions": with_rows(axes=np.full((T, 1), np.nan, np.float32))}, "not finite in row 0"),
        ({"video": None}, "either video or latents"),
        ({"video": np.zeros((T, H, W, 4), np.uint8)}, "need video"),
        ({"video": np.zeros((T + 1, H, W, 3), np.uint8)}, "8 frames but 7 action rows"),
        ({"meta": {"events": [[]]}}, "meta events has 1 values"),
    ],
)
def test_a_bad_sample_is_named_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        check(sample(**changes))
    assert "\n" not in str(error.value)
    assert "sample" in str(error.value)


def test_a_cursor_image_keeps_its_pixels() -> None:
    rgba = np.random.default_rng(1).integers(0, 255, (5, 3, 4), dtype=np.uint8)
    image = CursorImage.from_array("arrow", (1, 2), rgba)
    assert np.array_equal(image.array(), rgba)
    assert (image.height, image.width) == (5, 3)


def test_a_manifest_round_trips() -> None:
    manifest = DatasetManifest(
        action_space=ActionSpace(buttons=("left",), keys=("KeyA", "Enter"), fps=12.5),
        fps=12.5,
        height=H,
        width=W,
        kind="latents",
        shards=(ShardEntry(name="000.tar", num_samples=2, num_frames=9, size=1024, sha256="ab"),),
        source={"environment": "desktop_sim", "seeds": [0, 2]},
        cursors=(CursorImage.from_array("a", (0, 1), np.zeros((2, 3, 4), np.uint8)),),
        latents=LatentStatistics(mean=(0.5, 1.0), std=(1.0, 2.0), vae_hash="h", stride=8),
    )
    assert from_dict(DatasetManifest, to_dict(manifest)) == manifest
