"""An environment and a policy make one recording."""

from typing import Any

import numpy as np

from data_pipeline.controls import Controls, ControlsLog
from data_pipeline.environments.environment import Environment
from data_pipeline.policies import Policy
from data_pipeline.schema import CursorImage, Sample
from data_pipeline.targets_used import TargetsUsed


def record(environment: Environment, policy: Policy, num_frames: int, seed: int, key: str) -> Sample:
    """A Sample of `num_frames` frames: the first is the one after reset, with nothing done before it.

    Row i is the Controls that led to frame i. An episode that ends by itself gives fewer frames.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; a recording has at least 1 frame")
    policy_seed = derived_seed(seed)
    frame, info = environment.reset(seed=seed)
    policy.reset(environment, policy_seed)
    log = ControlsLog(environment.action_space, width=frame.shape[1], height=frame.shape[0])
    video = np.empty((num_frames, *frame.shape), np.uint8)
    rows, infos, ended = [log.row(Controls(tuple(info["pointer"])))], [info], False
    video[0] = frame
    used = TargetsUsed()
    while len(infos) < num_frames and not ended:
        controls = policy.act(environment, info)
        used.add(environment, controls)
        frame, _, terminated, truncated, info = environment.step(controls)
        video[len(infos)] = frame
        rows.append(log.row(controls))
        infos.append(info)
        ended = terminated or truncated
    return Sample(
        key=key,
        actions={name: np.stack([row[name] for row in rows]) for name in rows[0]},
        meta=_meta(environment, policy, seed, policy_seed, infos) | used.meta(),
        video=video[: len(infos)],
    )


def derived_seed(seed: int) -> int:
    """The policy's seed: not the environment's, or both would draw the same numbers."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


def cursor_images(environment: Environment) -> tuple[CursorImage, ...]:
    """The environment's cursor shapes as a manifest keeps them."""
    return tuple(CursorImage.from_array(c.name, c.hotspot, c.rgba) for c in environment.cursors())


def _meta(
    environment: Environment, policy: Policy, seed: int, policy_seed: int, infos: list[dict[str, Any]]
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "fps": environment.action_space.fps,
        "num_frames": len(infos),
        "source": "environment",
        "environment": environment.name,
        "version": environment.version,
        "seed": seed,
        "policy": policy.name,
        "policy_seed": policy_seed,
        "events": [list(info.get("events", ())) for info in infos],
    }
    if "caption" in infos[0]:
        meta["caption"] = infos[0]["caption"]
    if any("state" in info for info in infos):
        meta["state"] = [info.get("state", {}) for info in infos]
    if "time" in infos[0]:
        meta["times"] = [round(float(info["time"]), 6) for info in infos]
    return meta
