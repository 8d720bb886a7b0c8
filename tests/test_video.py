"""Frames become bytes and frames again: every bit of them, any window of them, the same bytes each time."""

import numpy as np
import pytest

from data_pipeline import video

T, H, W = 21, 18, 34  # a length that no group of pictures divides, sizes that no macroblock divides


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A test card: saturated blocks, one-pixel lines, noise, a thing that moves."""
    rng = np.random.default_rng(0)
    card = rng.choice(np.array([0, 255], np.uint8), (T, H, W, 3))
    card[:, :, 8:24] = rng.integers(0, 255, (1, 1, 16, 3))
    for i in range(T):
        card[i, i % 12 : i % 12 + 4, i : i + 5] = (255, 0, 255)
    return card


@pytest.mark.parametrize("fps", [10.0, 7.5, 15.0, 29.97, 60.0])
@pytest.mark.case("D-22")
def test_lossless_is_exact_at_every_rate(frames: np.ndarray, fps: float) -> None:
    data = video.encode(frames, fps)
    assert np.array_equal(video.decode(data), frames)
    assert np.array_equal(video.decode(data, 13, 4), frames[13:17])


@pytest.mark.case("D-22")
def test_every_window_is_exactly_its_frames(frames: np.ndarray) -> None:
    data = video.encode(frames, 10.0)
    for start in range(T):
        for count in {1, min(5, T - start), T - start}:
            assert np.array_equal(video.decode(data, start, count), frames[start : start + count])


def test_the_same_frames_give_the_same_bytes(frames: np.ndarray) -> None:
    assert video.encode(frames, 10.0) == video.encode(frames.copy(), 10.0)


def test_odd_sizes_and_one_frame() -> None:
    frames = np.random.default_rng(1).integers(0, 255, (1, 7, 5, 3), dtype=np.uint8)
    assert np.array_equal(video.decode(video.encode(frames, 10.0)), frames)


@pytest.mark.case("D-22")
def test_yuv444_is_smaller_and_keeps_saturated_colours() -> None:
    rng = np.random.default_rng(2)
    blocks = rng.choice(np.array([0, 255], np.uint8), (1, 8, 12, 3)).repeat(8, 1).repeat(8, 2)
    frames = np.concatenate([np.roll(blocks, i, 2) for i in range(9)])
    data = video.encode(frames, 10.0, codec="yuv444")
    error = (video.decode(data, 3, 4).astype(float) - frames[3:7]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 38
    assert len(data) < len(video.encode(frames, 10.0))


def test_a_window_that_is_not_there_is_refused(frames: np.ndarray) -> None:
    data = video.encode(frames, 10.0)
    for start, count in [(T, None), (T - 2, 3), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="frame"):
            video.decode(data, start, count)


def test_bad_frames_bad_codec_and_cut_bytes_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        video.encode(frames.astype(np.float32), 10.0)
    with pytest.raises(ValueError, match="lossless, yuv444"):
        video.encode(frames, 10.0, codec="vp9")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be decoded"):
        video.decode(video.encode(frames, 10.0)[:400])
