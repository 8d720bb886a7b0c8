"""WorldSession: a trained model with the face of an environment. reset(frames), then step(action) -> frame.

A new frame starts as noise, joined to the frame before it at the small noise level that training used, and attends to how
the frames before began, kept as keys and values in a Memory: each holds its action and, in turn, the frame before it. So
what a frame costs is its own steps alone. Frames go on in latent space; pixels are decoded for the eye only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wm.artifact import World
from wm.batch import Action, Given
from wm.conditioning.caption import without_text
from wm.conditioning.condition import Condition
from wm.flow import Predict, draw_noise
from wm.models.denoiser import Denoiser
from wm.models.memory import Past
from wm.models.vae import to_pixels, to_unit_range
from wm.nn.causal import FrameCache
from wm.time_grids import ShiftedTimes


class WorldSession:
    """`batch` rollouts side by side, each a function of the seed, its number in the batch and what it was given."""

    def __init__(
        self, world: World, *, model: str = "student", num_steps: int | None = None, seed: int = 0, batch: int = 1
    ) -> None:
        if model not in world.models:
            raise ValueError(f"this world has no {model}; it has {', '.join(world.models)}")
        self.world, self.denoiser, self.card = world, world.models[model], world.manifest.models[model]
        self.flow = self.card.flow.build()
        self.scale = world.scale(model)
        self.device = next(self.denoiser.parameters()).device
        grid = ShiftedTimes(shift=self.card.shift) if self.card.times is None else self.card.times
        self.times = grid.times(self.flow, self.card.num_steps if num_steps is None else num_steps)
        self.seed, self.batch = seed, batch
        self.frame = 0  # number of the next frame since reset
        self.text: tuple[str, ...] | None = None
        self.past: Past | None = None  # of the next frame
        self.done: Action | None = None  # (B, 1) in the last frame
        self.decoding = FrameCache()  # what the decoder still holds of the frames before
        self.dreamers, self.scales = self._guiding()

    @torch.inference_mode()
    def begin(self, text: tuple[str, ...] | None = None) -> None:
        """Begin with nothing to go on from but B captions: the first step gives a clip's first frame."""
        self.text, self.frame = self._said(text), 0
        for dreamer in self.dreamers:
            dreamer.forget()
        self.decoding = FrameCache()
        nothing = torch.zeros_like(self._start(1))
        self.past, self.done = Past(nothing, torch.ones(nothing.shape[:2], device=self.device), nothing), None

    @torch.inference_mode()
    def reset(self, frames: Tensor, action: Action, text: tuple[str, ...] | None = None) -> Tensor:
        """Begin after real `frames` (B, T, 3, H, W) uint8 with their `action` (B, T); the last one as the model sees it.

        What comes back lies on the device of the action, as with `step`.
        """
        manifest = self.world.manifest
        if frames.shape[0] != self.batch or frames.shape[1] < 1:
            raise ValueError(f"{frames.shape[0]} clips of {frames.shape[1]} frames given to a session of {self.batch}")
        if frames.shape[-2:] != (manifest.height, manifest.width):
            raise ValueError(
                f"frames of {frames.shape[-2]}x{frames.shape[-1]} pixels given to a world of "
                f"{manifest.height}x{manifest.width}"
            )
        taken = self._taken(action, frames.shape[1])
        x = self.scale.normalised(self.world.vae.encode(to_unit_range(frames.to(self.device))).mean)
        self.text, self.frame = self._said(text), 0
        shown, level = self._shown(x)
        for dreamer in self.dreamers:
            dreamer.see(self._start(x.shape[1]), Past.of(shown, level, x), Given(taken, self.text))
        self.past, self.done = Past(shown[:, -1:], level[:, -1:], x[:, -1:]), taken[:, -1:]
        self.frame, self.decoding = x.shape[1], FrameCache()
        return self._decoded(x[:, -1 - self.world.vae.past_latents :]).to(action.pointer.device)

    @torch.inference_mode()
    def step(self, action: Action) -> Tensor:
        """The next frame (B, 3, H, W) uint8 after `action` (B, 1)."""
        return self._decoded(self.dream(action)).to(action.pointer.device)

    @torch.inference_mode()
    def dream(self, action: Action) -> Tensor:
        """The next frame in latent space, (B, 1, C, h, w) normalised; it is remembered."""
        if self.past is None:
            raise ValueError("nothing to go on from: begin or reset comes before step")
        given, start = Given(self._taken(action, 1), self.text, self.done), self._start(1)
        predict = self._guided([dreamer.predictor(self.past, given) for dreamer in self.dreamers], start)
        x = self._at_rest(
            self.card.sampler.sample(self.flow, predict, start, self.times, lambda i: self._noise(f"fresh {i}"))
        )
        for dreamer in self.dreamers:
            dreamer.remember()
        self.past, self.done = Past(*self._shown(x), x), given.action
        self.frame += 1
        return x

    def _at_rest(self, x: Tensor) -> Tensor:
        """`x`, with what hardly changed as it was in the frame before: errors too small to see would add up."""
        if self.card.rest_below == 0 or self.done is None:
            return x
        assert self.past is not None
        before = self.past.x
        return torch.where((x - before).abs().amax(2, keepdim=True) < self.card.rest_below, before, x)

    def _guided(self, predicts: list[Predict], start: Tensor) -> Predict:
        """One of the predicts of all dreamers, the least informed first, within the limits of guidance."""
        limits = self.card.guidance_limits
        if limits.highest < 1:  # then no sampler asks the less informed about pure noise, which they are to remember
            for predict in predicts[:-1]:
                predict(start, torch.ones(start.shape[:2], device=self.device))
        return limits.guided_by_each(predicts, self.scales)

    def _start(self, num_frames: int) -> Tensor:
        """Pure noise, (B, num_frames, C, h, w): where the next frames begin."""
        noise = torch.cat([self._noise("noise", later) for later in range(num_frames)], dim=1)
        return self.flow.noised(torch.zeros_like(noise), noise, torch.ones(noise.shape[:2], device=self.device))

    def _shown(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The next frames as each is shown to the one after it, and at which level (B, T)."""
        level = torch.full(x.shape[:2], self.card.context_level, device=self.device)
        noise = [self._noise("context", later) for later in range(x.shape[1])]
        return self.flow.noised(x, torch.cat(noise, dim=1), level), level

    def _taken(self, action: Action, num_frames: int) -> Action:
        """`action` on the model's device; ValueError where it is not one a rollout and frame."""
        shape = tuple(action.pointer.shape[:2])
        if shape != (self.batch, num_frames):
            raise ValueError(f"actions of shape {shape} given where {(self.batch, num_frames)} are needed")
        return action.to(self.device)

    def _said(self, text: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if text is not None and len(text) != self.batch:
            raise ValueError(f"{len(text)} captions given to a session of {self.batch}")
        return text

    def _guiding(self) -> "tuple[list[_Dreamer], list[float]]":
        """What is asked, the least informed first, and the scales between them: nothing, all but the text, all.

        Before these, each under the condition of the one after it: what has no history (history guidance, Song et al. 2025,
        arXiv:2502.06764), and the weak model (autoguidance, Karras et al. 2024, arXiv:2406.02507, eq. 3).
        """
        denoiser, dreamers = self.denoiser, [_Dreamer(self.denoiser, self.denoiser.condition)]
        scales: list[float] = []

        def wordless(given: Given) -> Condition:
            return denoiser.condition(without_text(given, torch.ones(self.batch, dtype=torch.bool)))

        for condition, scale in ((wordless, self.card.text_guidance_scale), (denoiser.null, self.card.guidance_scale)):
            if scale != 1:
                dreamers.insert(0, _Dreamer(denoiser, condition))
                scales.insert(0, scale)
        if self.card.history_guidance_scale != 1:
            dreamers.insert(0, _Dreamer(denoiser, dreamers[0].condition, blind=True))
            scales.insert(0, self.card.history_guidance_scale)
        if self.card.autoguidance_scale != 1:
            dreamers.insert(0, self._weak(is_null=self.card.guidance_scale != 1))
            scales.insert(0, self.card.autoguidance_scale)
        return dreamers, scales

    def _weak(self, is_null: bool) -> "_Dreamer":
        """The weak model, told as much as the least informed of the others."""
        weak = self.world.models.get("weak")
        if weak is None:
            raise ValueError(
                f"autoguidance_scale is {self.card.autoguidance_scale} and this world has no weak model to be guided by: name the "
                "stage that trained one as `weak` where the models are put together (export, evaluate)"
            )
        card = self.world.manifest.models["weak"]
        if (card.flow, card.mean, card.std) != (self.card.flow, self.card.mean, self.card.std):
            raise ValueError(
                "the weak model was trained with another flow or on other latents than the one that it guides"
            )
        if is_null:
            return _Dreamer(weak, weak.null)
        wordless = torch.ones(self.batch, dtype=torch.bool)
        if self.card.text_guidance_scale != 1:
            return _Dreamer(weak, lambda given: weak.condition(without_text(given, wordless)))
        return _Dreamer(weak, weak.condition)

    def _noise(self, stream: str, later: int = 0) -> Tensor:
        """(B, 1, C, h, w) for the frame `later` after the next."""
        shape = self.card.shape
        size = (1, shape.channels, shape.rows, shape.columns)
        return draw_noise(size, self.seed, self.frame + later, torch.arange(self.batch), self.device, stream)

    def _decoded(self, x: Tensor) -> Tensor:
        """The last frame of `x`, which go on from those decoded before."""
        return to_pixels(self.world.vae.decode(self.scale.raw(x), self.decoding)[:, -1])


class _Dreamer:
    """A denoiser with its memory, under one kind of condition; a blind one has no memory and is shown no past."""

    def __init__(self, denoiser: Denoiser, condition: Callable[[Given], Condition], blind: bool = False) -> None:
        self.denoiser, self.condition, self.blind = denoiser, condition, blind
        self.memory = denoiser.dit.memory()

    def forget(self) -> None:
        self.memory = self.denoiser.dit.memory()

    def remember(self) -> None:
        """Keep the frame that was drawn last."""
        if not self.blind:
            self.memory.commit()

    def see(self, start: Tensor, past: Past, given: Given) -> None:
        """Forget, then take in frames by what led to them; `start` is pure noise, as where they would have begun."""
        self.forget()
        if self.blind:
            return
        self.denoiser.dit.remember(start, torch.ones_like(past.level), past, self.condition(given), self.memory)

    def predictor(self, past: Past, given: Given) -> Predict:
        """predict(x_t, t) for the next frame, whose action is `given`; the first call, on pure noise, is to remember."""
        condition = self.condition(given)
        if self.blind:
            past = Past(torch.zeros_like(past.x_t), torch.ones_like(past.level), torch.zeros_like(past.x))
        is_first = True

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal is_first
            y = self.denoiser.dit(x_t, t, past, condition, self.memory)
            if is_first:
                self.memory.hold()
                is_first = False
            return y

        return predict
