"""What one sample costs a training stage: its networks are built on the meta device, which has shapes and no numbers.

Parameters are counted one by one. A layer that multiplies by its weights takes 2 x weights x positions operations, one
multiplication and one addition each; attention of q queries to k keys takes 4 q k D for all heads together, two products
of (q, D) by (D, k) and back. What is masked is counted too, because the kernels compute it. A backward takes twice the
forward: one product for the gradient of the input, one for that of the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from launch.recordings import RecordConfig
from launch.run_config import RunConfig
from wm.batch import Action, ActionSpace, EncodedText, Given
from wm.conditioning.caption import TextConditioner
from wm.conditioning.text import ByteText, PretrainedText
from wm.config import ConfigError
from wm.engine.learner import LearnerConfig
from wm.models.denoiser import Denoiser, DenoiserConfig, WorldShape
from wm.models.dit import DiTConfig, Past
from wm.models.sizes import attention_operations
from wm.models.vae import VideoVAE, VideoVAEConfig
from wm.stages.distill import DistillConfig
from wm.stages.distill_decoder import DistillDecoderConfig
from wm.stages.train_dit import TrainDiTConfig
from wm.stages.train_vae import TrainVAEConfig

FORWARD, BACKWARD = 1, 2  # in forwards
META = torch.device("meta")


@dataclass(frozen=True)
class Facts:
    """What a world is, as far as costs go."""

    action_space: ActionSpace
    height: int  # pixels
    width: int
    channels: int  # of latents
    stride: int  # pixels a latent covers, a side

    @property
    def shape(self) -> WorldShape:
        rows, columns = self.height // self.stride, self.width // self.stride
        return WorldShape(
            action_space=self.action_space, channels=self.channels, rows=rows, columns=columns, stride=self.stride
        )


@dataclass(frozen=True)
class Learned:
    """A network that a learner trains."""

    name: str
    parameters: int
    config: LearnerConfig


@dataclass(frozen=True)
class Work:
    """One optimizer step of a training stage, for one sample."""

    learned: tuple[Learned, ...]
    frozen_bytes: int  # of networks outside the learners
    flops: float  # forward and backward
    activation_bytes: int  # that a forward keeps for its backward; attention's scores are not kept
    sample_bytes: int  # as it is read

    @property
    def parameters(self) -> int:
        return sum(one.parameters for one in self.learned)


def facts_of(record: RunConfig, vae: RunConfig) -> Facts:
    """The facts of a world from its record file and its vae file; ConfigError where the environment has no size."""
    assert isinstance(record.stage, RecordConfig)
    assert isinstance(vae.stage, TrainVAEConfig)
    environment: Any = record.stage.environment
    if not all(hasattr(environment, name) for name in ("height", "width", "buttons", "keys", "fps")):
        raise ConfigError(
            f"what a {environment.kind} shows is known only when it is recorded: give --root of its datasets"
        )
    space = ActionSpace(
        buttons=environment.buttons,
        keys=environment.keys,
        wheel=getattr(environment, "wheel", False),
        fps=environment.fps,
    )
    tokenizer = vae.stage.vae
    return Facts(space, environment.height, environment.width, tokenizer.latent_channels, tokenizer.stride)


def work_of(
    run: RunConfig, facts: Facts, teacher: DenoiserConfig | None = None, tokenizer: VideoVAEConfig | None = None
) -> Work:
    """The work of a training stage. A distillation takes the networks of its `teacher`, that of a decoder its `tokenizer`'s."""
    data, _ = run.parts()
    if isinstance(run.stage, TrainVAEConfig):
        return _tokenizer_work(run.stage, facts, data.clip_frames, run.stage.critic_start)
    if isinstance(run.stage, TrainDiTConfig):
        return _denoiser_work(run.stage.denoiser, facts, data.clip_frames, run.stage.learner, FORWARD + BACKWARD, 0)
    if isinstance(run.stage, DistillDecoderConfig):
        assert tokenizer is not None
        return _decoder_work(run.stage, tokenizer, facts, data.clip_frames)
    assert isinstance(run.stage, DistillConfig)
    assert teacher is not None
    guidance = 1 if run.stage.guidance_scale in (0, 1) else 2
    forwards = FORWARD + BACKWARD + guidance + FORWARD  # student, teacher, target
    return _denoiser_work(teacher, facts, data.clip_frames, run.stage.learner, forwards, 2)


def _denoiser_work(
    config: DenoiserConfig, facts: Facts, frames: int, learner: LearnerConfig, forwards: int, num_frozen: int
) -> Work:
    """`forwards` times a forward of the denoiser, and `num_frozen` copies of it beside the one that learns."""
    dtype = learner.dtype
    module, forward = denoiser(config, facts, frames, dtype)
    read = tokens_read(module)
    attention = attention_flops(config.dit, facts.shape, frames, *read) + text_attention_flops(module)
    forward_flops = layer_flops(module, forward) + attention
    latents = 2 * frames * facts.channels * facts.shape.rows * facts.shape.columns  # float16 on disk
    return Work(
        learned=(Learned("denoiser", num_parameters(module), learner),),
        frozen_bytes=num_frozen * num_parameters(module) * dtype.itemsize,
        flops=forwards * forward_flops,
        activation_bytes=kept_bytes(module, forward, _scores(config.dit, facts.shape, frames, *read)),
        sample_bytes=latents,
    )


def denoiser(
    config: DenoiserConfig, facts: Facts, frames: int, dtype: torch.dtype = torch.float32
) -> tuple[Denoiser, Callable[[], Tensor]]:
    """The denoiser on the meta device, and its forward over one clip. Attention is plain: its shapes are those of any.

    Captions of an encoder from a folder come as `encode_latents` leaves them: it takes no part.
    """
    plain = replace(config, dit=replace(config.dit, attention="plain"))
    with META:
        module = plain.build(facts.shape).to(dtype)
    shape = facts.shape

    def forward() -> Tensor:
        x = torch.zeros(1, frames, shape.channels, shape.rows, shape.columns, device=META)
        t = torch.zeros(1, frames, device=META)
        given = Given(Action.idle(facts.action_space, 1, frames).to(META), *_text(module))
        made: Tensor = module(x, t, Past.of(x, t, x), given)
        return made

    return module, forward


def _text(module: Denoiser) -> tuple[Any, ...]:
    """The text of a Given, and what was encoded of it."""
    encoder = getattr(module.conditioner, "encoder", None)
    if not isinstance(encoder, PretrainedText):
        return () if encoder is None else (("",),)
    encoder.agreed.add("planned")
    tokens = torch.zeros(1, encoder.width, device=META)
    return ("",), None, EncodedText("planned", {"": tokens})


def tokens_read(module: Denoiser) -> tuple[int, int]:
    """(tokens of a text, tokens of one frame's action) that the blocks of `module` are given; 0 where there are none."""
    conditioner: Any = module.conditioner
    reads = isinstance(conditioner, TextConditioner)
    acting = conditioner.action if reads else conditioner
    tells = acting is not None and acting.tokens is not None
    return conditioner.config.encoder.max_tokens if reads else 0, len(acting.tokens.nothing) if tells else 0


def attention_flops(config: DiTConfig, shape: WorldShape, frames: int, words: int = 0, action_tokens: int = 0) -> int:
    """Of a forward over one clip, by the formula of the blocks: every frame looks at all frames.

    Where places recall what they showed, each does so over all frames, with keys and values of widths of their own.
    """
    tokens = shape.rows * shape.columns // config.patch_size**2
    recall = shape.rows * shape.columns * 2 * frames * frames * (config.recall + shape.channels) if config.recall else 0
    return int(attention_operations(config, frames, tokens, words=words, action_tokens=action_tokens)) + recall


def text_attention_flops(module: Denoiser) -> int:
    """Of the text encoder that learns with `module`, on one caption; 0 where there is none."""
    conditioner = module.conditioner
    if not isinstance(conditioner, TextConditioner) or not isinstance(conditioner.encoder, ByteText):
        return 0
    encoder = conditioner.encoder.config
    return encoder.depth * 4 * encoder.max_tokens**2 * encoder.width


def _scores(config: DiTConfig, shape: WorldShape, frames: int, words: int, action_tokens: int) -> set[tuple[int, int]]:
    """(queries, keys) of attention's scores, where they cannot be mistaken for queries of (tokens, head_dim)."""
    tokens = shape.rows * shape.columns // config.patch_size**2
    here = tokens + (words if config.text == "joint" else 0)
    together = frames * here if config.full else here
    pairs = {(together, together), (frames, frames), (tokens, config.action_window * action_tokens)}
    if config.text == "cross":
        pairs.add((frames * tokens, words))
    head_dim = config.hidden_size // config.num_heads
    return {(queries, keys) for queries, keys in pairs if keys not in (0, head_dim)}


def _tokenizer_work(stage: TrainVAEConfig, facts: Facts, frames: int, alone: float) -> Work:
    """The autoencoder trains alone for the part `alone` of the steps; then its decoder and the critic do.

    With the critic: the encoder is frozen and asked twice, the decoder trains and is asked once more, the critic's
    verdict is carried back to the decoder (a forward, and the gradient of the input), and the critic trains on two videos.
    """
    dtype = stage.learner.dtype
    with META:
        module, critic = stage.vae.build().to(dtype), stage.critic.build().to(dtype)
    video = torch.zeros(1, frames, 3, facts.height, facts.width, device=META)

    def forward() -> Tensor:
        return _reconstructed(module, video)

    encoder, decoder = layer_flops(module.encoder, forward), layer_flops(module.decoder, forward)
    judged = layer_flops(critic, lambda: critic(video))
    both = FORWARD + BACKWARD
    without = both * (encoder + decoder)
    with_critic = 2 * encoder + (both + FORWARD) * decoder + (FORWARD + BACKWARD / 2 + 2 * both) * judged
    return Work(
        learned=(
            Learned("tokenizer", num_parameters(module), stage.learner),
            Learned("critic", num_parameters(critic), stage.critic_learner),
        ),
        frozen_bytes=num_parameters(module) * dtype.itemsize,
        flops=alone * without + (1 - alone) * with_critic,
        activation_bytes=kept_bytes(module, forward, set()),
        sample_bytes=video.numel(),  # one byte a pixel's channel, as decoded
    )


def _decoder_work(stage: DistillDecoderConfig, tokenizer: VideoVAEConfig, facts: Facts, frames: int) -> Work:
    """A small decoder learns from the large one: the large tokenizer encodes and decodes, in float32, the small one decodes."""
    dtype = stage.learner.dtype
    config = replace(tokenizer, decoder_widths=stage.decoder_widths, decoder_depth=stage.decoder_depth)
    with META:
        large, small = tokenizer.build(), config.build().to(dtype)
    video = torch.zeros(1, frames, 3, facts.height, facts.width, device=META)
    posterior = large.encode(video)

    def forward() -> Tensor:
        return small.decode(posterior.mean)

    decoded = layer_flops(small.decoder, forward)
    encoder = sum(parameter.numel() * parameter.element_size() for parameter in small.encoder.parameters())
    return Work(
        learned=(Learned("decoder", num_parameters(small.decoder), stage.learner),),
        frozen_bytes=num_parameters(large) * torch.float32.itemsize + encoder,
        flops=layer_flops(large, lambda: _reconstructed(large, video)) + (FORWARD + BACKWARD) * decoded,
        activation_bytes=kept_bytes(small, forward, set()),
        sample_bytes=video.numel(),
    )


def _reconstructed(module: VideoVAE, video: Tensor) -> Tensor:
    num_latents = module.config.num_latents(video.shape[1])
    sides = (side // module.stride for side in video.shape[-2:])
    noise_shape = (len(video), num_latents, module.latent_channels, *sides)
    made, _ = module(video, torch.zeros(noise_shape, device=META))
    return made


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layer_flops(module: nn.Module, forward: Callable[[], Any]) -> int:
    """2 x weights x positions over the linear layers and convolutions of `module` that `forward` calls."""
    total = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        total += 2 * layer.weight.numel() * (output.numel() // channels)

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return total


def kept_bytes(module: nn.Module, forward: Callable[[], Any], scores: set[tuple[int, int]]) -> int:
    """Bytes that autograd keeps of `forward`, without parameters, and without what ends in the axes of `scores`.

    A fused kernel computes attention's scores again instead of keeping them (Dao et al. 2022, section 3.1).
    """
    own = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and tuple(tensor.shape[-2:]) not in scores:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = forward()  # alive until all is counted: a storage that is freed lends its address to the next
        total = sum(storage.nbytes() for storage in kept.values())
    del made
    return total
