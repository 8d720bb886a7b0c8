"""The measures against slow references, and the laws of the intervals, the transition rule and the cursor's locator."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wm.cursor import Sprite, boxes, locate, match, visible
from wm.measures import (
    PSNR_CAP_DB,
    TransitionRule,
    bootstrap,
    judge,
    mean_interval,
    psnr,
    rms,
    slope,
    ssim,
    wilson,
)

RULE = TransitionRule()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    real = torch.full((2, 3, 5, 7), 0.5)
    made = real + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(made, real) == pytest.approx([20.0, 40.0], abs=1e-3)
    assert rms(made, real) == pytest.approx([0.1, 0.01], abs=1e-6)


def test_psnr_of_equal_frames_is_the_cap_and_uint8_agrees_with_float():
    video = (noise(4, 3, 6, 5) * 255).to(torch.uint8)
    other = video.roll(1, -1)
    assert (psnr(video, video) == PSNR_CAP_DB).all()
    assert torch.allclose(psnr(video, other), psnr(video.float() / 255, other.float() / 255))


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, by the definition: every 11x11 window on its own, in float64."""
    offset = np.arange(11) - 5.0
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    weight = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
            values.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return float(np.mean(values))


def test_ssim_agrees_with_the_slow_reference():
    real = noise(2, 3, 13, 17)
    made = (real + 0.3 * noise(2, 3, 13, 17, seed=1)).clamp(0, 1)
    for n in range(2):
        expected = np.mean([slow_ssim(made[n, c].double().numpy(), real[n, c].double().numpy()) for c in range(3)])
        assert float(ssim(made, real)[n]) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_equal_frames_is_one_and_small_frames_are_refused():
    video = noise(2, 3, 12, 14)
    assert ssim(video, video) == pytest.approx([1.0, 1.0], abs=1e-5)
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(video[..., :9], video[..., :9])


def test_slope_of_a_line_is_its_slope_and_noise_around_it_agrees_with_polyfit():
    lines = torch.tensor([[0.3], [-2.0]]) * torch.arange(9.0) + 5
    assert slope(lines) == pytest.approx([0.3, -2.0], abs=1e-5)
    rough = lines + noise(2, 9)
    expected = [np.polyfit(np.arange(9), curve, 1)[0] for curve in rough.numpy()]
    assert slope(rough) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (7, 7), (3, 11), (90, 100)])
def test_wilson_ends_solve_the_score_equation(successes: int, trials: int):
    estimate = wilson(successes, trials)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    for end in (estimate.low, estimate.high):
        deviation = abs(estimate.value - end)
        assert deviation == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / trials), abs=1e-6)


def test_t_interval_covers_the_truth_in_95_of_100_draws():
    samples = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    covered = [e.low <= 0 <= e.high for e in map(mean_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_is_the_same_for_a_seed_and_covers_the_truth():
    samples = np.random.default_rng(1).normal(size=(150, 60))
    estimates = [bootstrap(s, lambda v: float(v.mean()), resamples=300) for s in samples]
    assert estimates[0] == bootstrap(samples[0], lambda v: float(v.mean()), resamples=300)
    assert np.mean([e.low <= 0 <= e.high for e in estimates]) == pytest.approx(0.94, abs=0.05)


def test_bootstrap_over_groups_is_wider_when_values_of_a_group_agree():
    values = np.random.default_rng(2).normal(size=12).repeat(10)
    apart = bootstrap(values, lambda v: float(v.mean()))
    together = bootstrap(values, lambda v: float(v.mean()), groups=np.arange(12).repeat(10))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An old frame, a new one in which a window opened, and an empty cursor box, (1, 3, 40, 60) and (1, 40, 60)."""
    old = torch.full((1, 3, 40, 60), 0.3)
    new = old.clone()
    new[..., 5:20, 10:30] = 0.9
    return old, new, torch.zeros(1, 40, 60, dtype=torch.bool)


def correct(made: torch.Tensor, ignored: torch.Tensor | None = None) -> bool:
    old, new, nothing = scene()
    return bool(judge(old, new, made, nothing if ignored is None else ignored, RULE).correct)


def test_the_true_frame_is_right_the_old_one_is_wrong():
    old, new, _ = scene()
    assert correct(new)
    assert not correct(old)
    assert correct(new + 0.05)


def test_half_a_change_is_at_the_threshold():
    old, new, _ = scene()
    assert correct(old + 0.51 * (new - old))
    assert not correct(old + 0.49 * (new - old))


def test_a_second_window_is_wrong_although_the_first_is_right():
    _, new, _ = scene()
    new = new.clone()
    new[..., 30:33, 40:43] = 0.9  # half a per cent, but wider than 60 / 24 px
    assert not correct(new)


def test_a_thin_line_is_allowed_until_it_is_two_per_cent():
    _, new, _ = scene()
    thin, thick = new.clone(), new.clone()
    thin[..., 35, 10:50] = 0.9  # 40 of 2100 pixels
    thick[..., 35, :] = 0.9  # 60 of 2100 pixels
    assert correct(thin)
    assert not correct(thick)


def test_the_cursor_is_no_part_of_a_transition():
    _, new, nothing = scene()
    made, ignored = new.clone(), nothing.clone()
    made[..., 30:38, 40:46] = 1.0
    ignored[..., 30:38, 40:46] = True
    assert not correct(made)
    assert correct(made, ignored)


def sprites() -> tuple[Sprite, Sprite]:
    """An arrow that points with its tip and a hand that points with its second column; black outline, white inside."""
    black, white, clear = (0, 0, 0, 255), (255, 255, 255, 255), (0, 0, 0, 0)
    colours = {"X": black, "o": white, ".": clear}
    arrow = ("X......", "XX.....", "XoX....", "XooX...", "XoooX..", "XooooX.", "XoooooX", "XoXXXX.", "XX.....")
    hand = ("..XX....", "..XoX...", "..XoX...", "XXXoXXX.", "XoXooooX", "XooooooX", ".XooooX.", "..XXXX..")
    return tuple(
        Sprite(name, hotspot, torch.tensor([[colours[c] for c in line] for line in rows], dtype=torch.uint8))
        for name, hotspot, rows in (("arrow", (0, 0), arrow), ("hand", (3, 0), hand))
    )


def pasted(background: torch.Tensor, sprite: Sprite, x: int, y: int) -> torch.Tensor:
    """`background` (3, H, W) in [0, 1] with the sprite pointing at (x, y), cut at the edges, pixel by pixel."""
    frame = background.clone()
    for i, j in np.ndindex(*sprite.rgba.shape[:2]):
        row, column = y + i - sprite.hotspot[1], x + j - sprite.hotspot[0]
        inside = 0 <= row < frame.shape[1] and 0 <= column < frame.shape[2]
        if inside and sprite.rgba[i, j, 3] > 0:
            frame[:, row, column] = sprite.rgba[i, j, :3] / 255
    return frame


def busy_backgrounds(count: int, height: int = 45, width: int = 70) -> torch.Tensor:
    """Gradients with windows, white text areas and letters: what a desktop puts in the way."""
    generator = np.random.default_rng(3)
    frames = torch.linspace(0.2, 0.6, width).expand(count, 3, height, width).clone()
    for frame in frames:
        for _ in range(4):
            x, y = generator.integers(0, width - 22), generator.integers(0, height - 16)
            frame[:, y : y + 16, x : x + 22] = 0.95
            frame[:, y : y + 4, x : x + 22] = torch.tensor(generator.uniform(0, 1, 3)).view(3, 1, 1)
            letters = torch.tensor(generator.integers(0, 2, (7, 18)), dtype=torch.bool)
            frame[:, y + 6 : y + 13, x + 2 : x + 20][:, letters] = 0.1
    return frames


def scattered(count: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames with a cursor in them, its pointer, and which sprite it is."""
    generator = np.random.default_rng(4)
    which = torch.arange(count) % 2
    pointer = torch.tensor(generator.integers((4, 4), (64, 38), (count, 2)))
    backgrounds = busy_backgrounds(count)
    frames = [
        pasted(b, sprites()[int(w)], int(x), int(y)) for b, w, (x, y) in zip(backgrounds, which, pointer, strict=True)
    ]
    return torch.stack(frames), pointer, which


def test_a_sharp_cursor_is_found_exactly_anywhere():
    frames, pointer, which = scattered()
    found = locate(frames, sprites())
    assert torch.equal(found.pointer, pointer)
    assert torch.equal(found.sprite, which)
    assert torch.allclose(found.score, torch.ones(len(frames)), atol=0.05)


def test_a_blurred_noisy_faint_cursor_is_found_within_a_pixel():
    frames, pointer, _ = scattered()
    weak = 0.75 * frames + 0.25 * busy_backgrounds(len(frames))
    soft = F.avg_pool2d(F.pad(weak, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    soft = 0.6 * soft + 0.4 * weak + 0.03 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(5))
    error = (locate(soft, sprites()).pointer - pointer).double().norm(dim=-1)
    assert error.median() <= 1.0
    assert (error <= 1.5).float().mean() >= 0.95


def test_scores_agree_with_the_definition_pixel_by_pixel():
    frames = noise(1, 3, 14, 16)
    sprite = sprites()[1]
    scores = match(frames, sprite)[0]
    opaque = sprite.rgba[..., 3] > 0
    h, w = opaque.shape
    near = F.max_pool2d(F.pad(opaque[None].float(), (2, 2, 2, 2)), 5, stride=1, padding=2)[0] > 0
    ring = near & ~F.pad(opaque, (2, 2, 2, 2))
    for x, y in [(7, 4), (3, 0), (15, 12), (8, 5)]:
        values, wanted, around = [], [], []
        for i, j in np.ndindex(h + 4, w + 4):
            row, column = y + i - 2 - sprite.hotspot[1], x + j - 2 - sprite.hotspot[0]
            if not (0 <= row < 14 and 0 <= column < 16):
                continue
            if 2 <= i < h + 2 and 2 <= j < w + 2 and opaque[i - 2, j - 2]:
                values.append(frames[0, :, row, column])
                wanted.append(sprite.rgba[i - 2, j - 2, :3] / 255)
            elif ring[i, j]:
                around.append(frames[0, :, row, column])
        if len(values) < 0.5 * opaque.sum():
            assert scores[y, x] == -1
            continue
        f, s, b = torch.stack(values), torch.stack(wanted), torch.stack(around).mean(0)
        below = (f - b).square().sum() + (s - b).square().sum() + 1e-3 * len(f)
        assert float(scores[y, x]) == pytest.approx(float(1 - (f - s).square().sum() / below), abs=1e-4)


def test_a_frame_without_cursor_scores_low():
    assert locate(busy_backgrounds(6), sprites()).score.max() < 0.75
    assert locate(torch.full((1, 3, 20, 30), 0.4), sprites()).score.max() < 0.05


def test_a_cut_cursor_is_found_while_half_of_it_is_seen():
    arrow = sprites()[0]
    background = busy_backgrounds(1)[0]
    pointer = torch.tensor([[69, 20], [66, 20], [30, 44], [30, 39]])
    assert visible(pointer, [arrow], 45, 70).tolist() == [False, True, False, True]
    frames = torch.stack([pasted(background, arrow, x, y) for x, y in pointer[[1, 3]].tolist()])
    assert torch.equal(locate(frames, [arrow]).pointer, pointer[[1, 3]])


def test_boxes_cover_every_sprite_and_the_margin():
    pointer = torch.tensor([[30, 20], [0, 44]])
    covered = boxes(pointer, sprites(), 45, 70, margin=1)
    for n, (x, y) in enumerate(pointer.tolist()):
        for sprite in sprites():
            empty, full = torch.full((3, 45, 70), 0.5), pasted(torch.full((3, 45, 70), 0.5), sprite, x, y)
            assert not ((empty != full).any(0) & ~covered[n]).any()
    assert covered[0].sum() == (3 + 6 + 1 + 2) * (8 + 1 + 2)


def test_no_sprites_is_an_error_and_an_empty_box():
    with pytest.raises(ValueError, match="no cursor sprites"):
        locate(busy_backgrounds(1), ())
    assert not boxes(torch.tensor([[3, 4]]), (), 8, 9, margin=2).any()
