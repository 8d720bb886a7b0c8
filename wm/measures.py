"""How good a generated frame is: PSNR, SSIM, transitions, drift, and the 95 % intervals. Pure functions of videos and arrays."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wm.config import config

# Equal frames have an infinite PSNR. 60 dB is above what rounding to uint8 leaves (58.9 dB), so nothing real is cut.
PSNR_CAP_DB = 60.0

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; the expansion in `_t_quantile` is exact enough above.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_Z_975 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A measured value, its 95 % interval and the number of trials behind it."""

    value: float
    low: float
    high: float
    trials: int


def unit(video: Tensor) -> Tensor:
    """`video` as float32 in [0, 1]; uint8 is divided by 255, float is taken to be there already."""
    return video.float() / 255 if video.dtype == torch.uint8 else video.float()


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, (..., C, H, W) -> (...), at most PSNR_CAP_DB."""
    error = (unit(made) - unit(real)).square().mean((-3, -2, -1))
    return -10 * torch.log10(error.clamp_min(10 ** (-PSNR_CAP_DB / 10)))


def rms(made: Tensor, real: Tensor) -> Tensor:
    """Root mean squared difference of each frame as a fraction of full scale, (..., C, H, W) -> (...)."""
    return (unit(made) - unit(real)).square().mean((-3, -2, -1)).sqrt()


def ssim(made: Tensor, real: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity of each frame, (N, C, H, W) -> (N,): Wang et al. 2004, equation 13, mean over whole windows.

    Each channel is compared on its own with the paper's 11x11 Gaussian window and K1, K2 = 0.01, 0.03.
    """
    num, channels, height, width = made.shape
    if min(height, width) < window:
        raise ValueError(f"SSIM needs frames of at least {window}x{window} pixels, got {width}x{height}")
    x, y = (unit(v).reshape(num * channels, 1, height, width) for v in (made, real))
    offset = torch.arange(window, device=made.device) - (window - 1) / 2
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    map_ = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    map_ = map_ / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return map_.reshape(num, -1).mean(1)


@config
class TransitionRule:
    """When a generated frame shows the right transition; one rule for every model and every kind of event.

    A frame is right when both hold, outside the boxes where the cursor was and is:
    1. what should change did: over the pixels that truly changed, the squared error to the true new frame is at most
       `change_error` of the squared change from the true old frame to the true new one (a frame that keeps the old
       picture scores 1, one that shows the new picture 0);
    2. nothing else did: of the pixels that truly did not change at most `stray_fraction` are off by more than
       `stray_level`, and no square of `blob_fraction` of the frame's width is off as a whole.
    """

    changed_level: float = 0.02  # a pixel truly changed when a channel moved by more than this part of full scale
    change_error: float = 0.25
    stray_level: float = 0.15  # of full scale
    stray_fraction: float = 0.02
    blob_fraction: float = 1 / 24  # of the frame's width: 4 px at 96
    min_changed_px: int = 4  # events that truly change fewer pixels than this are no trials: there is nothing to see
    cursor_margin_px: int = 2  # added around the cursor's box


@dataclass(frozen=True)
class Verdicts:
    """One row a trial."""

    correct: Tensor  # (N,) bool, both of the following
    changed: Tensor  # (N,) bool, what should change did
    quiet: Tensor  # (N,) bool, nothing else did
    change_error: Tensor  # (N,) squared error over squared change
    stray_fraction: Tensor  # (N,) of the pixels that should have stayed


def changed_pixels(old: Tensor, new: Tensor, rule: TransitionRule) -> Tensor:
    """Which pixels truly changed, (N, C, H, W) twice -> (N, H, W) bool."""
    return (unit(new) - unit(old)).abs().amax(-3) > rule.changed_level


def judge(old: Tensor, new: Tensor, made: Tensor, ignored: Tensor, rule: TransitionRule) -> Verdicts:
    """Whether `made` (N, C, H, W) shows what happened from `old` to `new`; `ignored` (N, H, W) is where the cursor is."""
    changed = changed_pixels(old, new, rule)
    kept, changed = ~changed & ~ignored, changed & ~ignored
    error = (unit(made) - unit(new)).square().sum(-3)
    truth = (unit(new) - unit(old)).square().sum(-3)
    ratio = (error * changed).sum((-2, -1)) / (truth * changed).sum((-2, -1)).clamp_min(1e-9)
    stray = ((unit(made) - unit(new)).abs().amax(-3) > rule.stray_level) & kept
    fraction = stray.sum((-2, -1)) / kept.sum((-2, -1)).clamp_min(1)
    side = max(2, round(rule.blob_fraction * old.shape[-1]))
    blob = F.avg_pool2d(stray.float().unsqueeze(1), side, stride=1).amax((-3, -2, -1)) > 1 - 0.5 / side**2
    did, quiet = ratio <= rule.change_error, (fraction <= rule.stray_fraction) & ~blob
    return Verdicts(did & quiet, did, quiet, ratio, fraction)


def slope(curves: Tensor) -> Tensor:
    """Least-squares change per frame of each curve, (R, T) -> (R,)."""
    if curves.shape[-1] < 2:
        raise ValueError(f"a slope needs at least 2 frames, got {curves.shape[-1]}")
    frame = torch.arange(curves.shape[-1], dtype=torch.float64)
    frame = frame - frame.mean()
    return (curves.double() @ frame / frame.square().sum()).float()


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927), which stays inside [0, 1] at both ends."""
    if trials < 1:
        raise ValueError(f"a proportion needs at least one trial, got {trials}")
    share, z2 = successes / trials, _Z_975**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_975 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # At 0 and at all successes one end is the share itself; rounding must not put it on the wrong side.
    return Estimate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), trials)


def mean_interval(values: Tensor) -> Estimate:
    """The mean with Student's t interval: for a few independent trials, where a bootstrap is too narrow."""
    count, mean = len(values), float(values.double().mean())
    if count < 2:
        return Estimate(mean, mean, mean, count)
    half = _t_quantile(count - 1) * float(values.double().std()) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def _t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t (Abramowitz & Stegun 26.7.5 above ten degrees of freedom)."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _Z_975
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


Statistic = Callable[[np.ndarray], float]


def bootstrap(
    values: np.ndarray, statistic: Statistic, *, groups: np.ndarray | None = None, seed: int = 0, resamples: int = 1000
) -> Estimate:
    """`statistic(values)` with the percentile interval of `resamples` redraws (Efron 1979), the same for the same seed.

    Values with the same entry in `groups` (frames of one rollout, of one clip) are drawn together: they are not
    independent, and drawing them apart would make the interval too narrow.
    """
    values = np.asarray(values, dtype=np.float64)
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = generator.integers(len(members), size=len(members))
        draws[i] = statistic(values[np.concatenate([members[j] for j in chosen])])
    low, high = np.percentile(draws, (2.5, 97.5))
    return Estimate(float(statistic(values)), float(low), float(high), len(values))
