"""Real clips beside those that a model makes after the same past with the same actions, for measures of whole videos."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wm.batch import Action
from wm.models.vae import VideoVAE, to_unit_range
from wm.stages.bench import Bench, unmeasured
from wm.stages.trials import Clip, pointer_pixels, windows
from wm.stages.video_measures import Aids, Compared, Rows, VideosConfig

FRAMES_AT_ONCE = 32  # that the tokenizer encodes


def measured_model(config: VideosConfig, bench: Bench, aids: Aids) -> Rows:
    """The rows of the model on the bench, which makes each clip from its context on."""
    if not config.measures:
        return {}
    context = bench.counts.context_frames
    found = _windows(bench.clips, context + config.frames, config.clips)
    if found is None:
        return _none(context + config.frames)
    real, action = found
    made = []
    for seed in range(config.seeds):
        session = bench.open(len(real), noise=1000 + seed)
        session.reset(real[:, :context], action[:, :context])
        after = range(context, real.shape[1])
        made.append(torch.stack([session.step(action[:, i : i + 1]).cpu() for i in after], dim=1))
    return config.measure(_compared(bench, real[:, context:], torch.stack(made), action[:, context:]), aids)


def measured_tokenizer(config: VideosConfig, bench: Bench, reconstruct: Callable[[Tensor], Tensor], aids: Aids) -> Rows:
    """The rows of the tokenizer alone, on clips of as many frames."""
    if not config.measures:
        return {}
    found = _windows(bench.clips, config.frames, config.clips)
    if found is None:
        return _none(config.frames)
    real, action = found
    made = reconstruct(real.flatten(0, 1)).cpu().view_as(real)
    return config.measure(_compared(bench, real, made[None], action), aids)


def encoder(vae: VideoVAE, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Clips (N, T, 3, H, W) uint8 to the raw latents that a tokenizer means, on the CPU, a few at once."""

    @torch.no_grad()
    def encode(video: Tensor) -> Tensor:
        parts = video.split(max(1, FRAMES_AT_ONCE // video.shape[1]))
        return torch.cat([vae.encode(to_unit_range(part.to(device))).mean.float().cpu() for part in parts])

    return encode


def _windows(clips: Sequence[Clip], length: int, count: int) -> tuple[Tensor, Action] | None:
    starts = windows(clips, length, count)
    if not starts:
        return None
    real = torch.stack([clips[p.clip].video[p.frame : p.frame + length] for p in starts])
    return real, Action.concatenate([clips[p.clip].action[:, p.frame : p.frame + length] for p in starts], 0)


def _compared(bench: Bench, real: Tensor, made: Tensor, action: Action) -> Compared:
    absolute = bench.space.pointer == "absolute"
    return Compared(real, made, pointer_pixels(action, *real.shape[-2:]) if absolute else None)


def _none(length: int) -> Rows:
    return {"videos": unmeasured(f"no held-out clip has {length} frames")}
