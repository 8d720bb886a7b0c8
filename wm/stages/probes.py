"""What is asked of one model at one number of steps: each probe runs sessions on held-out clips and returns its measure."""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from wm.batch import Action
from wm.cursor import Sprite, locate, visible
from wm.measures import bootstrap, judge, mean_interval, psnr, rms, slope, wilson
from wm.stages.bench import Bench, Findings, Sighting, row, speed_rows, unmeasured
from wm.stages.pictures import film, strip
from wm.stages.trials import (
    Position,
    Trials,
    all_positions,
    cursor_region,
    draw,
    gather,
    hold,
    otherwise,
    pointer_pixels,
    rests,
    transitions,
    windows,
)

# A difference below this part of full scale is rounding: it keeps the ratio of the counterfactual probe finite.
RMS_FLOOR = 0.5 / 255


def probe(bench: Bench) -> Findings:
    """Every measure of one model; the order of the probes is the order of the report."""
    findings = Findings()
    for ask in (transition_accuracy, next_frames, idle_stability, drift, counterfactual, speed):
        findings.add(ask(bench))
    findings.add(cursor_error(bench.sprites, findings.sightings, bench.seed))
    return findings


def predicted(bench: Bench, positions: Sequence[Position]) -> Iterator[tuple[Trials, Tensor]]:
    """Pasts, and the frame (N, 3, H, W) that the model puts after each, in batches."""
    for start in range(0, len(positions), bench.counts.batch):
        trials = gather(bench.clips, positions[start : start + bench.counts.batch], bench.counts.context_frames)
        session = bench.open(len(trials.frames), noise=start)
        session.reset(trials.frames, trials.action)
        yield trials, session.step(trials.next_action).cpu()


def transition_accuracy(bench: Bench) -> Findings:
    """Whether what should change changes and nothing else, as TransitionRule says, for each kind of event alike often."""
    name, counts = "transition_accuracy", bench.counts
    if not any(any(clip.events) for clip in bench.clips):
        return Findings({name: unmeasured("this world has no inner state") | {"by_kind": {}}})
    found = transitions(bench.clips, bench.sprites, counts.context_frames, bench.rule)
    if not found:
        return Findings({name: unmeasured("no event of the held-out clips can be seen") | {"by_kind": {}}})
    drawn = {k: draw(p, counts.transitions_per_kind, bench.seed + i) for i, (k, p) in enumerate(found.items())}
    asked = [position for positions in drawn.values() for position in positions]
    findings, start = Findings(), 0
    judged = [_judged(bench, trials, made) for trials, made in predicted(bench, asked)]
    columns = [torch.cat(parts) for parts in zip(*judged, strict=True)]
    by_kind = {}
    for kind, positions in drawn.items():
        old, new, made, correct, changed, quiet = (c[start : start + len(positions)] for c in columns)
        start += len(positions)
        parts = {"changed": float(changed.float().mean()), "nothing_else": float(quiet.float().mean())}
        by_kind[kind] = row(wilson(int(correct.sum()), len(correct)), **parts, available=len(found[kind]))
        shown = slice(0, counts.strip_trials)
        findings.pictures[f"transition-{kind}"] = strip([old[shown], new[shown], made[shown]])
        findings.details.setdefault("verdicts", {})[kind] = [
            "right" if did and still else "missed" if still else "stray"
            for did, still in zip(changed[shown].tolist(), quiet[shown].tolist(), strict=True)
        ]
    counted = {kind: {"means": means, "available": len(found.get(kind, ()))} for kind, means in bench.kinds.items()}
    findings.details |= {"kinds": counted} if counted else {}
    correct = columns[3]
    findings.measures[name] = row(wilson(int(correct.sum()), len(correct))) | {"by_kind": by_kind}
    return findings


def _judged(bench: Bench, trials: Trials, made: Tensor) -> tuple[Tensor, ...]:
    """Old, true new and generated frame, then correct, changed and quiet, a row a trial."""
    old, new = trials.frames[:, -1], trials.next_frame
    margin = bench.rule.cursor_margin_px
    cursor = cursor_region(trials.action[:, -1:], trials.next_action, bench.sprites, *bench.size, margin)
    verdicts = judge(old, new, made, cursor, bench.rule)
    return old, new, made, verdicts.correct, verdicts.changed, verdicts.quiet


def next_frames(bench: Bench) -> Findings:
    """PSNR of the frame after a real past, at frames drawn alike from all held-out ones."""
    context = bench.counts.context_frames
    positions = draw(all_positions(bench.clips, context), bench.counts.next_frames, bench.seed + 101)
    if not positions:
        return Findings({"next_frame_psnr_db": unmeasured(f"no held-out clip has more than {context} frames")})
    values: list[Tensor] = []
    sightings: list[Sighting] = []
    for trials, made in predicted(bench, positions):
        values.append(psnr(made, trials.next_frame))
        pointer = pointer_pixels(trials.next_action, *bench.size)[:, 0]
        group = np.arange(len(made)) + len(sightings) * bench.counts.batch
        sightings.append(Sighting(made, pointer, group))
    measure = row(bootstrap(torch.cat(values).numpy(), lambda v: float(v.mean()), seed=bench.seed))
    return Findings({"next_frame_psnr_db": measure}, sightings=sightings)


def idle_stability(bench: Bench) -> Findings:
    """PSNR against the last real frame while nothing is done: mean over frames, then over rollouts."""
    counts = bench.counts
    positions = draw(rests(bench.clips, counts.context_frames), counts.idle_rollouts, bench.seed + 102)
    if not positions:
        return Findings({"idle_stability_db": unmeasured("no frame of the held-out clips is at rest")})
    trials = gather(bench.clips, positions, counts.context_frames)
    session = bench.open(len(positions))
    session.reset(trials.frames, trials.action)
    still, truth = hold(trials.action[:, -1:], bench.space), trials.frames[:, -1]
    curves = torch.stack([psnr(session.step(still).cpu(), truth) for _ in range(counts.idle_frames)], 1)
    measure = row(mean_interval(curves.mean(1)), frames=counts.idle_frames)
    return Findings({"idle_stability_db": measure}, {"idle_curve": _curve(curves)})


def drift(bench: Bench) -> Findings:
    """Slope of PSNR over long rollouts with the actions of held-out clips, against the recording."""
    counts, name = bench.counts, "drift_db_per_100_frames"
    length = counts.context_frames + counts.rollout_frames
    starts = windows(bench.clips, length, counts.rollouts)
    if not starts:
        return Findings({name: unmeasured(f"no held-out clip has {length} frames")})
    real = torch.stack([bench.clips[p.clip].video[p.frame : p.frame + length] for p in starts])
    action = Action.concatenate([bench.clips[p.clip].action[:, p.frame : p.frame + length] for p in starts], 0)
    made = _rolled_out(bench, real, action)
    real, action = real[:, counts.context_frames :], action[:, counts.context_frames :]
    curves = torch.stack([psnr(*pair) for pair in zip(made, real, strict=True)])
    measure = row(mean_interval(100 * slope(curves)), frames=counts.rollout_frames)
    shown = slice(counts.strip_every - 1, None, counts.strip_every)
    return Findings(
        {name: measure},
        {"curve": _curve(curves)},
        {"rollout": film(real[0, shown], made[0, shown], counts.strip_trials)},
        [_sighting(bench, made, action)],
        (real[0], made[0]),
    )


def _rolled_out(bench: Bench, real: Tensor, action: Action) -> Tensor:
    """What the model makes of the actions after the context, (R, rollout_frames, 3, H, W)."""
    context = bench.counts.context_frames
    session = bench.open(len(real))
    session.reset(real[:, :context], action[:, :context])
    frames = range(context, real.shape[1])
    return torch.stack([session.step(action[:, i : i + 1]).cpu() for i in frames], 1)


def _sighting(bench: Bench, made: Tensor, action: Action) -> Sighting:
    """Every few frames of the rollouts (R, T, 3, H, W); frames of one rollout form a group."""
    some = slice(0, None, bench.counts.cursor_every)
    pointer = pointer_pixels(action, *bench.size)[:, some]
    group = np.repeat(-1 - np.arange(len(made)), pointer.shape[1])
    return Sighting(made[:, some].flatten(0, 1), pointer.flatten(0, 1), group)


def _curve(curves: Tensor) -> dict[str, list[float]]:
    """Mean, lowest and highest of curves (R, T) at each frame."""
    parts = {"mean": curves.mean(0), "low": curves.amin(0), "high": curves.amax(0)}
    return {name: [round(float(v), 2) for v in values] for name, values in parts.items()}


def counterfactual(bench: Bench) -> Findings:
    """How much further another action moves the next frame than another noise does, in dB.

    `different` is the RMS difference between the frames after the true and after another action, with the same noise;
    `same` that between two noises with the same action. Both are parts of full scale.
    """
    counts = bench.counts
    positions = draw(rests(bench.clips, counts.context_frames), counts.counterfactuals, bench.seed + 103)
    if not positions:
        return Findings({"counterfactual_sensitivity": unmeasured("no frame of the held-out clips is at rest")})
    trials = gather(bench.clips, positions, counts.context_frames)
    other = otherwise(trials.next_action, trials.action[:, -1:], bench.space)

    def after(action: Action, noise: int) -> Tensor:
        session = bench.open(len(positions), noise=noise)
        session.reset(trials.frames, trials.action)
        return session.step(action).cpu()

    base = after(trials.next_action, 0)
    different, same = rms(base, after(other, 0)), rms(base, after(trials.next_action, 1))
    both = torch.stack([different, same], 1).numpy()

    def ratio_db(values: np.ndarray) -> float:
        first, second = np.maximum(values.mean(0), RMS_FLOOR)
        return 20 * math.log10(first / second)

    parts = {"different": row(mean_interval(different)), "same": row(mean_interval(same))}
    return Findings({"counterfactual_sensitivity": row(bootstrap(both, ratio_db, seed=bench.seed)) | parts})


def speed(bench: Bench) -> Findings:
    """Frames a second and latency of one session, from the action in to the decoded frame in main memory."""
    counts = bench.counts
    clip = max(bench.clips, key=len)
    context = min(counts.context_frames, len(clip))
    session = bench.open(1)
    session.reset(clip.video[None, :context], clip.action[:, :context])
    seconds = []
    for i in range(counts.speed_frames + 3):
        frame = (context + i) % len(clip)
        start = time.perf_counter()
        session.step(clip.action[:, frame : frame + 1]).cpu()
        seconds.append(time.perf_counter() - start)
    return Findings({"speed": speed_rows(torch.tensor(seconds[3:]))})  # the first frames pay for warming up


def cursor_error(
    sprites: Sequence[Sprite], sightings: Sequence[Sighting], seed: int, name: str = "cursor_error_px"
) -> Findings:
    """Distance in pixels between the pointer and the cursor that is found anywhere in the frame: median and 95th percentile.

    Frames in which the edge cuts more than half of the cursor off are no trials.
    """
    names = ("median", "p95")
    if not sprites:
        return Findings({name: unmeasured("this world has no cursor to look for", *names)})
    errors, groups = [np.empty(0)], [np.empty(0)]
    for sighting in sightings:
        height, width = sighting.frames.shape[-2:]
        seen = visible(sighting.pointer, sprites, height, width)
        found = locate(sighting.frames[seen], sprites).pointer
        errors.append((found - sighting.pointer[seen]).double().norm(dim=-1).numpy())
        groups.append(sighting.group[seen.numpy()])
    values, group = np.concatenate(errors), np.concatenate(groups)
    if not len(values):
        return Findings({name: unmeasured("the cursor is in no held-out frame as a whole", *names)})
    middle = bootstrap(values, lambda v: float(np.median(v)), groups=group, seed=seed)
    tail = bootstrap(values, lambda v: float(np.percentile(v, 95)), groups=group, seed=seed)
    numbers = {"median": middle.value, "low": middle.low, "high": middle.high}
    numbers |= {"p95": tail.value, "p95_low": tail.low, "p95_high": tail.high}
    measure = {key: round(value, 3) for key, value in numbers.items()} | {"trials": len(values)}
    return Findings({name: measure}, {"cursor_errors": values.round(2).tolist()})
