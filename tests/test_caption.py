"""Text as a condition: said, dropped by itself, guided by itself, and a clip begun from words alone."""

import dataclasses

import pytest
import torch
from tiny_stages import batch, context, make, make_root
from tiny_world import CARD, DENOISER, SHAPE, SPACE, some_action, some_frames, world
from torch import Tensor, nn

from wm.batch import Action, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.caption import TextConditioner, TextConditionerConfig, without_text
from wm.conditioning.text import ByteTextConfig
from wm.config import ConfigError, from_dict, to_dict
from wm.flow import draw_noise
from wm.models.denoiser import Denoiser, DenoiserConfig
from wm.models.dit import Past
from wm.rollout import WorldSession
from wm.samplers import guided, guided_by_each

TEXT = ("a red circle", "two blue squares")
ENCODER = ByteTextConfig(width=12, depth=1, num_heads=2, max_tokens=24)
DIT = dataclasses.replace(DENOISER.dit, text="cross")
WORDS = DenoiserConfig(dit=DIT, conditioner=TextConditionerConfig(encoder=ENCODER))
BOTH = DenoiserConfig(dit=DIT, conditioner=TextConditionerConfig(encoder=ENCODER, action=ActionConditionerConfig()))


def conditioner(**changes: object) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditionerConfig(**{"encoder": ENCODER, **changes}).build(SPACE, 16, 4, 4, 6)


def test_what_is_said_is_tokens_and_their_mean() -> None:
    said = conditioner()(Given(text=TEXT))
    assert said.tokens.shape == (2, 24, 16)
    assert said.frames.shape == (2, 1, 16)
    assert said.mask.sum(1).tolist() == [len(caption) + 1 for caption in TEXT]
    assert said.maps is None
    longer = dataclasses.replace(ENCODER, max_tokens=40)
    torch.testing.assert_close(conditioner(encoder=longer)(Given(text=TEXT)).frames, said.frames)
    assert conditioner(pooled=False)(Given(text=TEXT)).frames is None


def test_no_text_is_the_empty_caption() -> None:
    one = conditioner()
    null, empty = one.null(Given(text=TEXT)), one(Given(text=("", "")))
    assert torch.equal(null.tokens, empty.tokens)
    assert torch.equal(null.mask, empty.mask)
    given = without_text(Given(text=TEXT), torch.tensor([True, False]))
    assert given.text == ("", TEXT[1])
    action = Given(action=some_action(2, 3))
    assert without_text(action, torch.tensor([True, True])) is action
    with pytest.raises(ValueError, match="conditioned on text and none was given"):
        one(Given())


def test_text_and_action_stand_side_by_side() -> None:
    both = conditioner(action=ActionConditionerConfig())
    given = Given(some_action(2, 3), TEXT)
    joined, done = both(given), both.action(given)
    assert both.num_maps == both.action.num_maps
    assert torch.equal(joined.maps, done.maps)
    said = conditioner()(given)
    torch.testing.assert_close(both(without_text(given, torch.ones(2, dtype=torch.bool))).maps, done.maps)
    assert joined.tokens.shape == said.tokens.shape
    torch.testing.assert_close(joined.frames - both._said(TEXT).frames, done.frames)


def built(config: DenoiserConfig) -> Denoiser:
    torch.manual_seed(3)
    denoiser = config.build(SHAPE).eval()
    for parameter in denoiser.dit.parameters():
        nn.init.normal_(parameter, std=0.1)
    return denoiser


def some_input() -> tuple[Tensor, Tensor, Past]:
    x, past = (draw_noise((3, SHAPE.channels, SHAPE.rows, SHAPE.columns), s, 0, torch.arange(2)) for s in (0, 1))
    return x, torch.full((2, 3), 0.7), Past.of(past, torch.full((2, 3), 0.05))


@pytest.mark.parametrize("config", [WORDS, BOTH], ids=["words", "words and actions"])
def test_a_denoiser_reads_its_text_and_only_its_own(config: DenoiserConfig) -> None:
    denoiser, inputs, action = built(config), some_input(), some_action(2, 3)
    y = denoiser(*inputs, Given(action, TEXT))
    assert y.shape == inputs[0].shape
    other = denoiser(*inputs, Given(action, (TEXT[0], "a green circle")))
    torch.testing.assert_close(other[0], y[0])
    assert (other[1] - y[1]).abs().max() > 1e-3
    dropped = denoiser(*inputs, Given(action, TEXT), keep=torch.tensor([True, False]))
    torch.testing.assert_close(dropped[0], y[0])
    assert from_dict(DenoiserConfig, to_dict(config)) == config


def test_text_goes_with_a_model_that_reads_it() -> None:
    with pytest.raises(ConfigError, match=r"conditioner text and .* none do not fit"):
        from_dict(DenoiserConfig, {"conditioner": {"kind": "text"}})
    with pytest.raises(ConfigError, match=r"set dit\.text=none"):
        from_dict(DenoiserConfig, {"dit": {"text": "cross"}})


def test_guidance_has_a_scale_for_each_condition() -> None:
    def constant(value: float):
        return lambda x_t, t: torch.full_like(x_t, value)

    x, t = torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2)
    nothing, action, both = constant(1.0), constant(3.0), constant(7.0)
    assert guided_by_each([nothing, action, both], [2.0, 0.5])(x, t).unique().tolist() == [1 + 2 * 2 + 0.5 * 4]
    assert guided_by_each([nothing, action, both], [1.0, 1.0])(x, t).unique().tolist() == [7.0]
    assert torch.equal(guided_by_each([action, both], [3.0])(x, t), guided(both, action, 3.0)(x, t))
    assert guided_by_each([both], []) is both
    with pytest.raises(ValueError, match="2 scales for 2 predictions"):
        guided_by_each([nothing, both], [1.0, 2.0])


def session(config: DenoiserConfig = WORDS, **changes: object) -> WorldSession:
    card = dataclasses.replace(CARD, denoiser=config, **{"num_steps": 1, **changes})
    play = WorldSession(world(card), seed=4, batch=2)
    torch.manual_seed(6)  # an encoder that tells captions apart, and a projection that lets it be heard
    conditioner = play.denoiser.conditioner
    conditioner.encoder.load_state_dict(ENCODER.build().state_dict())
    nn.init.normal_(conditioner.project[1].weight)
    return play


def dreamed(play: WorldSession, text: tuple[str, ...], frames: int = 5) -> Tensor:
    play.begin(text)
    return torch.cat([play.dream(Action.idle(SPACE, 2, 1)) for _ in range(frames)], 1)


def test_a_clip_begun_from_words_is_the_whole_clip_at_once() -> None:
    """Frame by frame, from nothing, through the memory: as one forward over all frames with the same pasts."""
    play, frames = session(), 4
    x = dreamed(play, TEXT, frames)
    play.frame = 0
    shown, level = play._shown(x)
    start = play._start(frames)
    t = torch.ones(2, frames)
    y = play.denoiser(start, t, Past.of(shown, level), Given(Action.idle(SPACE, 2, frames), TEXT))
    torch.testing.assert_close(play.flow.clean(start, y, t), x, rtol=1e-4, atol=1e-4)


def test_words_make_the_clip_and_guidance_makes_them_louder() -> None:
    plain = dreamed(session(), TEXT)
    assert torch.equal(dreamed(session(), TEXT), plain)
    other = dreamed(session(), (TEXT[0], "nothing"))
    torch.testing.assert_close(other[0], plain[0])
    assert (other[1] - plain[1]).abs().max() > 1e-3
    for config in (WORDS, BOTH):
        loud = session(config, text_guidance_scale=3.0)
        assert len(loud.dreamers) == 2
        assert (dreamed(loud, TEXT) - dreamed(session(config), TEXT)).abs().max() > 1e-3
        silent = dreamed(loud, ("", ""))  # there is nothing to make louder
        torch.testing.assert_close(silent, dreamed(session(config), ("", "")), rtol=1e-4, atol=1e-4)
    each = session(BOTH, text_guidance_scale=3.0, guidance_scale=2.0)
    assert each.scales == [2.0, 3.0]
    same = session(BOTH, text_guidance_scale=1.0, guidance_scale=2.0)
    assert (dreamed(each, TEXT) - dreamed(same, TEXT)).abs().max() > 1e-3


def test_a_session_goes_on_after_real_frames_with_what_is_said() -> None:
    one, action = session(BOTH), some_action(2, 3)
    with pytest.raises(ValueError, match="nothing to go on from"):
        one.step(action[:, :1])
    steps = []
    for text in (TEXT, ("", TEXT[1])):
        one.reset(some_frames(2, 3), action, text)
        steps.append(one.dream(action[:, :1]))
    assert (steps[0][0] - steps[1][0]).abs().max() > 1e-4
    torch.testing.assert_close(steps[0][1], steps[1][1])
    with pytest.raises(ValueError, match="1 captions given to a session of 2"):
        one.begin(("a",))


def test_the_share_of_clips_without_text_is_drawn_apart_from_the_others(tmp_path) -> None:
    root = make_root(tmp_path)
    losses = {}
    for drop in (0.0, 1.0):
        stage = make("train_dit", context(root), denoiser=BOTH, drop_condition=0.0, drop_text=drop)
        nn.init.normal_(stage.denoiser.module.dit.up.leave.weight)
        for text in (TEXT, TEXT[::-1]):
            given = batch(0, "train_dit")
            said = dataclasses.replace(given, given=dataclasses.replace(given.given, text=text))
            losses[drop, text] = float(stage.loss(said)[0].detach())
    assert losses[1.0, TEXT] == losses[1.0, TEXT[::-1]]
    assert losses[0.0, TEXT] != losses[0.0, TEXT[::-1]]


def test_a_stage_trains_saves_and_distils_with_text(tmp_path) -> None:
    root = make_root(tmp_path)
    given = batch(0, "train_dit")
    said = dataclasses.replace(given, given=dataclasses.replace(given.given, text=TEXT))
    stage = make("train_dit", context(root), denoiser=BOTH, text_guidance_scale=2.0)
    before = {name: value.clone() for name, value in stage.denoiser.module.conditioner.encoder.state_dict().items()}
    losses = [float(stage.step(dataclasses.replace(said, step=i))["loss"]) for i in range(12)]
    assert losses[-1] < losses[0]
    after = stage.denoiser.module.conditioner.encoder.state_dict()
    assert any((after[name] != before[name]).any() for name in before), "the encoder learns with the denoiser"
    assert stage.sample(said)["rollout"].shape[0] == 4
    stage.finish(root / "dit")
    student = make("distill", context(root), text_guidance_scale=2.0)
    assert float(student.step(said)["loss"]) > 0
    assert student.weights_card().text_guidance_scale == 1.0
