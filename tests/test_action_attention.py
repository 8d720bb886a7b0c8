"""Actions as tokens: the equations in float64, a short window back and nothing else, the same from a memory, text beside."""

import dataclasses

import pytest
import torch
from tiny_world import COLUMNS as WIDE
from tiny_world import DENOISER, ROWS, SPACE, some_action
from torch import Tensor, nn

from wm.batch import Action, ActionSpace, Given
from wm.conditioning.action import ActionConditionerConfig
from wm.conditioning.action_tokens import ActionTokens
from wm.conditioning.caption import TextConditionerConfig
from wm.conditioning.text import ByteTextConfig
from wm.models.denoiser import Denoiser, DenoiserConfig, WorldShape
from wm.models.memory import Past
from wm.nn.action_attention import ActionAttention, recent_actions

B, T, N, K, D, HEADS, WINDOW = 2, 6, 5, 3, 12, 3, 4
TEXT = ("a red circle", "two blue squares")
ACTING = dataclasses.replace(DENOISER.dit, depth=2, window=2, time_every=2, recall=0, action_window=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer() -> ActionAttention:
    torch.manual_seed(0)
    built = ActionAttention(D, HEADS, "auto", WINDOW)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


def reference(layer: ActionAttention, x: Tensor, tokens: Tensor) -> Tensor:
    """A query, a head at a time, over a list of what may be seen."""
    weights = {name: value.double() for name, value in layer.state_dict().items()}

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def standard(v: Tensor) -> Tensor:
        return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()

    out, size = torch.zeros_like(x, dtype=torch.float64), D // HEADS
    for b, t, n in ((b, t, n) for b in range(B) for t in range(T) for n in range(N)):
        query = linear("query", standard(x[b, t, n].double()) * weights["norm.weight"] + weights["norm.bias"])
        ages = range(min(WINDOW, t + 1))
        told = [
            linear("key_value", tokens[b, t - age, k].double() + weights["age"][age]) for age in ages for k in range(K)
        ]
        heads = []
        for part in (slice(h * size, (h + 1) * size) for h in range(HEADS)):
            keys = torch.stack([standard(one[:D][part]) * weights["key_norm.weight"] for one in told])
            q = standard(query[part]) * weights["query_norm.weight"]
            heads.append(torch.softmax(keys @ q / size**0.5, 0) @ torch.stack([one[D:][part] for one in told]))
        out[b, t, n] = linear("out", torch.cat(heads))
    return out


def test_it_is_the_equations() -> None:
    built, x, tokens = layer(), normal(B, T, N, D), normal(B, T, K, D, seed=1)
    found = built(x, *recent_actions(tokens, torch.arange(T), WINDOW))
    torch.testing.assert_close(found.double(), reference(built, x, tokens), rtol=1e-5, atol=1e-5)


def test_clips_side_by_side_in_one_row_do_not_read_each_other() -> None:
    built, x, tokens = layer(), normal(B, T, N, D), normal(B, T, K, D, seed=1)
    together = built(x, *recent_actions(tokens, torch.tensor([0, 1, 0, 1, 2, 3]), WINDOW))
    apart = [
        built(x[:, cut], *recent_actions(tokens[:, cut], torch.arange(cut.stop - cut.start), WINDOW))
        for cut in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(together, torch.cat(apart, 1))


def test_it_starts_as_no_change_and_learns_from_there() -> None:
    built, x = ActionAttention(D, HEADS, "auto", WINDOW), normal(B, T, N, D)
    out = built(x, *recent_actions(normal(B, T, K, D, seed=1), torch.arange(T), WINDOW))
    assert not out.any()
    (out * x).sum().backward()
    assert built.out.weight.grad is not None
    assert built.out.weight.grad.any()


def denoiser(conditioner: object, space: ActionSpace = SPACE, **changes: object) -> Denoiser:
    torch.manual_seed(0)
    config = DenoiserConfig(dit=dataclasses.replace(ACTING, **changes), conditioner=conditioner)
    built = config.build(WorldShape(action_space=space, channels=3, rows=ROWS, columns=WIDE, stride=4))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def clip(seed: int = 0) -> tuple[Tensor, Tensor, Past]:
    x, t = normal(B, T, 3, ROWS, WIDE, seed=seed), torch.rand(B, T, generator=torch.Generator().manual_seed(seed))
    return (
        x,
        t,
        Past.of(normal(B, T, 3, ROWS, WIDE, seed=seed + 1), 0.1 * t, normal(B, T, 3, ROWS, WIDE, seed=seed + 2)),
    )


def test_an_action_reaches_the_frames_of_its_window_and_no_other() -> None:
    built, other = denoiser(ActionConditionerConfig(tokens=True), window=1), some_action(B, T, seed=1)
    condition = built.condition(Given(action=some_action(B, T)))
    changed = condition.actions.clone()
    changed[:, 2] = built.condition(Given(action=other)).actions[:, 2]
    with torch.no_grad():
        one = built.dit(*clip(), condition)
        two = built.dit(*clip(), dataclasses.replace(condition, actions=changed))
    assert [i for i in range(T) if not torch.equal(one[:, i], two[:, i])] == [2, 3, 4]


def test_a_memory_gives_what_the_whole_clip_gives() -> None:
    built = denoiser(ActionConditionerConfig(tokens=True))
    condition, (x, t, past), memory, made = (
        built.condition(Given(action=some_action(B, T))),
        clip(),
        built.dit.memory(),
        [],
    )
    with torch.no_grad():
        whole = built.dit(x, t, past, condition)
        for cut in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
            names = ("frames", "maps", "place", "moved", "actions")
            part = dataclasses.replace(condition, **{name: getattr(condition, name)[:, cut] for name in names})
            made.append(
                built.dit(
                    x[:, cut], t[:, cut], Past(past.x_t[:, cut], past.level[:, cut], past.x[:, cut]), part, memory
                )
            )
            memory.hold()
            memory.commit()
    torch.testing.assert_close(torch.cat(made, 1), whole, atol=2e-5, rtol=1e-4)


def test_text_and_action_tokens_stand_side_by_side() -> None:
    words = ByteTextConfig(width=12, depth=1, num_heads=2, max_tokens=24)
    both = TextConditionerConfig(encoder=words, action=ActionConditionerConfig(tokens=True))
    built, given = denoiser(both, text="cross"), Given(some_action(B, T), TEXT)
    out = built(*clip(), given)
    assert not torch.allclose(out, built(*clip(), dataclasses.replace(given, text=TEXT[::-1])), atol=1e-3)
    assert not torch.allclose(
        out, built(*clip(), dataclasses.replace(given, action=some_action(B, T, seed=1))), atol=1e-3
    )
    nothing = built(*clip(), given, torch.tensor([False, True]))
    torch.testing.assert_close(nothing[1], out[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(nothing[:1], built.dit(*clip(), built.null(given))[:1], atol=1e-5, rtol=1e-4)
    nothing.square().mean().backward()
    silent = [name for name, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


SPACES = {
    "pointer": (ActionSpace(), ("pointer",)),
    "relative": (ActionSpace(pointer="relative"), ("pointer",)),
    "buttons": (ActionSpace(pointer="none", buttons=("left", "right")), ("buttons",)),
    "keys": (ActionSpace(pointer="none", keys=("KeyA", "KeyB", "Enter")), ("keys",)),
    "wheel": (ActionSpace(pointer="none", wheel=True), ("wheel",)),
    "axes": (ActionSpace(pointer="none", axes=("steer", "gas")), ("axes",)),
}


@pytest.mark.parametrize("name", SPACES)
def test_every_kind_of_control_reaches_both_the_tokens_and_the_frames_state(name: str) -> None:
    """Relative motion, the wheel, continuous axes and discrete actions (keys): each alone is a world's only control."""
    space, fields = SPACES[name]
    torch.manual_seed(0)
    conditioner = ActionConditionerConfig(tokens=True).build(space, 16, 4, ROWS, WIDE)
    idle, done = Action.idle(space, B, T), some_action(B, T, space)
    assert conditioner(Given(action=idle)).actions.shape == (B, T, 1, 16)
    for field in fields:
        value = getattr(idle, field).clone()
        value[:, 3] = getattr(done, field)[:, 3] + 0.5
        acted = dataclasses.replace(idle, **{field: value})
        for part in ("frames", "actions"):
            one, two = (getattr(conditioner(Given(action=a)), part) for a in (idle, acted))
            told = (one - two).flatten(2).abs().sum(-1)
            assert (told > 0).nonzero()[:, 1].unique().tolist() == [3]
            # More of it says more: what is continuous is not only there or not.
            value[:, 3] += 0.25
            further = getattr(conditioner(Given(action=dataclasses.replace(idle, **{field: value}))), part)
            assert not torch.equal(further[:, 3], two[:, 3])
            value[:, 3] -= 0.25


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dit\.action_window is 3 and the action conditioner's tokens false"):
        DenoiserConfig(dit=ACTING)
    with pytest.raises(ValueError, match=r"dit\.action_window is 0 and the action conditioner's tokens true"):
        DenoiserConfig(conditioner=ActionConditionerConfig(tokens=True))
    with pytest.raises(ValueError, match="this world has no controls"):
        ActionTokens(ActionSpace(pointer="none"), 16)
    built = denoiser(ActionConditionerConfig(tokens=True))
    condition = dataclasses.replace(built.condition(Given(action=some_action(B, T))), actions=None)
    with pytest.raises(ValueError, match="reads actions as tokens and none were given"):
        built.dit(*clip(), condition)
