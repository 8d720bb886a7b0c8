"""report.html: one self-contained page, no scripts and no requests, light or dark as the reader's system is."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from wm.stages.charts import Bar, Line, bars, lines
from wm.stages.further_rows import further_rows, reasons
from wm.stages.markup import cell, label, number, picture, table

MEASURES = (  # key, label; the order of the table
    ("transition_accuracy", "transition accuracy"),
    ("cursor_error_px", "cursor error, px (median)"),
    ("next_frame_psnr_db", "next frame, dB"),
    ("idle_stability_db", "idle stability, dB"),
    ("drift_db_per_100_frames", "drift, dB per 100 frames"),
    ("counterfactual_sensitivity", "counterfactual sensitivity, dB"),
)
TOKENIZER = ("psnr_db", "ssim", "cursor_error_px", "cursor_instrument_px")  # said in a sentence
# Upper ends of the cursor's error classes in pixels; the last class has none.
ERROR_ENDS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)

STYLE = """
:root{--back:#fbfbfa;--card:#fff;--text:#20242a;--soft:#667080;--line:#e3e5e8;--good:#1f7a4d;--bad:#b3362c;
--series-0:#3b7dd8;--series-1:#d9772f;--series-2:#2b9a77;--series-3:#9a63c2}
@media(prefers-color-scheme:dark){:root{--back:#15171a;--card:#1d2024;--text:#e4e7eb;--soft:#98a1ad;--line:#30353b;
--good:#54c08a;--bad:#f0776b;--series-0:#6aa2ee;--series-1:#ee9a5b;--series-2:#52c3a0;--series-3:#bd8fe0}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:36px 20px 80px}h1{font-size:27px;margin:0}h2{font-size:19px;margin:44px 0 6px}
h3{font-size:15px;margin:20px 0 4px}p{margin:4px 0 12px}.soft{color:var(--soft)}small{color:var(--soft);white-space:nowrap}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;background:var(--card)}.scroll{overflow-x:auto}
th,td{padding:7px 12px;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}th{font-weight:600}
th:first-child,td:first-child{text-align:left}.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.plot{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 12px 4px;margin:10px 0}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}.key span{margin-right:18px;color:var(--soft)}
.key i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px;vertical-align:-1px}
img{max-width:100%;image-rendering:pixelated;border-radius:4px;display:block}figure{margin:8px 0 18px;display:table;max-width:100%}
figcaption{color:var(--soft);font-size:13px;margin-bottom:4px}.marks{display:flex}.marks span{flex:1;text-align:center}
.meter{background:var(--series-0);height:9px;border-radius:3px;display:inline-block;min-width:1px}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}pre{background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:12px;overflow-x:auto;font-size:12.5px}
"""


def page(
    report: Mapping[str, Any], units: Mapping[str, Mapping[str, Any]], evaluation: Path, settings: Mapping[str, Any]
) -> str:
    """The page of `report`; `units` and the pictures in `evaluation` are what its plots and strips are drawn from."""
    models = {name: unit for name, unit in units.items() if name != "vae"}
    shown = "student-2" if "student-2" in models else next(reversed(models), None)
    parts = [_head(report), _targets(report["targets"])]
    if shown is not None:
        parts += [
            _rollout(shown, models, evaluation),
            _transitions(shown, models, evaluation, report["rules"]["transition"]),
        ]
        parts += [_drift(models), _cursor(models), _measures(report, models), _speed(report)]
    parts += [
        _tokenizer(report["vae"], units["vae"], evaluation),
        _timing(report["timing"]),
        _setting(report, settings),
    ]
    title = escape(f"{report['world']}: report")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>\n{body}\n</main></body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    verdicts = [target["passed"] for target in report["targets"]]
    said = f"{sum(v is True for v in verdicts)} of {len(verdicts)} targets met" if verdicts else "no targets set"
    machine = report["hardware"]
    where = f"{machine['cores']} cores of {machine['cpu']}" + "".join(f", {gpu}" for gpu in machine["gpu"])
    return (
        f"<h1>{escape(report['world'])}</h1><p class='soft'>{said} · seed {report['seed']} · {escape(where)} · "
        "measured on recordings that were not trained on; 95 % intervals in brackets</p>"
    )


def _targets(targets: Sequence[Mapping[str, Any]]) -> str:
    if not targets:
        return ""
    rows = []
    for target in targets:
        asked = " ".join(f"{sign} {target[k]:g}" for k, sign in (("at_least", "≥"), ("at_most", "≤")) if k in target)
        word = {True: '<span class="good">pass</span>', False: '<span class="bad">miss</span>', None: "not measured"}
        rows.append([escape(target["name"]), asked, cell(target), word[target["passed"]]])
    return "<h2>Against the targets</h2>" + table(("measure", "target", "measured", ""), rows)


def _rollout(shown: str, models: Mapping[str, Mapping[str, Any]], evaluation: Path) -> str:
    parts = []
    for name in (shown, *(n for n in models if n != shown)):
        pictures = models[name]["pictures"]
        if "rollout" in pictures:
            first = (
                ""
                if name != shown
                else picture(evaluation, pictures["animation"], "real on the left, dreamed on the right")
            )
            strip = picture(
                evaluation, pictures["rollout"], f"{label(name)}: each row of real frames above what was dreamed"
            )
            parts.append(first + strip)
    if not parts:
        return ""
    rest = f"<details><summary>the other models</summary>{''.join(parts[1:])}</details>" if parts[1:] else ""
    return (
        "<h2>A long rollout</h2><p class='soft'>Same actions as a held-out recording; after the first real frames the model sees only its own.</p>"
        + parts[0]
        + rest
    )


def _transitions(
    shown: str, models: Mapping[str, Mapping[str, Any]], evaluation: Path, rule: Mapping[str, float]
) -> str:
    rows = {label(name): unit["measures"]["transition_accuracy"] for name, unit in models.items()}
    head = "<h2>Transitions</h2>"
    reason = next(iter(rows.values())).get("reason")
    if reason:
        return f"{head}<p class='soft'>{escape(reason)}</p>"
    kinds = list(next(iter(rows.values()))["by_kind"])
    series = {
        name: [_accuracy(row), *(_accuracy(row["by_kind"].get(kind)) for kind in kinds)] for name, row in rows.items()
    }
    unit = models[shown]
    strips = "".join(_strip(unit, kind, evaluation) for kind in kinds)
    said = (
        "<p class='soft'>The frame of the event against the true one, beside the cursor. Right when both hold: over the pixels "
        f"that truly changed, the squared error is at most {100 * rule['change_error']:g} % of the squared change; of all others "
        f"at most {100 * rule['stray_fraction']:g} % are off by more than {rule['stray_level']:g} of full scale, and no square of "
        f"{100 * rule['blob_fraction']:.0f} % of the width is off as a whole.</p>"
    )
    strips_head = f"<h3>{escape(label(shown))}: before, real, dreamed</h3>"
    meanings = _kinds(unit["details"].get("kinds", {}))
    return head + said + bars(["all", *kinds], series, y_label="accuracy") + meanings + strips_head + strips


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """What each kind of transition of the world means, and how many of it the held-out clips show."""
    rows = [
        (escape(k), escape(about["means"]), str(about["available"] or "none to judge")) for k, about in kinds.items()
    ]
    return table(("kind", "what happens", "seen"), rows) if rows else ""


def _accuracy(row: Mapping[str, Any] | None) -> Bar | None:
    return None if row is None else Bar(row["value"], row["low"], row["high"], f"n={row['trials']}")


def _strip(unit: Mapping[str, Any], kind: str, evaluation: Path) -> str:
    words = {
        "right": '<span class="good">right</span>',
        "missed": '<span class="bad">wrong: did not change</span>',
        "stray": '<span class="bad">wrong: also elsewhere</span>',
    }
    marks = "".join(words[verdict] for verdict in unit["details"]["verdicts"][kind])
    return picture(evaluation, unit["pictures"][f"transition-{kind}"], kind, f'<div class="marks">{marks}</div>')


def _drift(models: Mapping[str, Mapping[str, Any]]) -> str:
    curves = [
        Line(label(name), c["mean"], c["low"], c["high"])
        for name, unit in models.items()
        if (c := unit["details"].get("curve")) is not None
    ]
    if not curves:
        return ""
    said = "<p class='soft'>PSNR against the recording over long rollouts: mean, and lowest to highest rollout.</p>"
    return "<h2>Drift</h2>" + said + lines(curves, x_label="generated frames", y_label="PSNR, dB")


def _cursor(models: Mapping[str, Mapping[str, Any]]) -> str:
    errors = {
        label(n): unit["details"]["cursor_errors"] for n, unit in models.items() if "cursor_errors" in unit["details"]
    }
    if not errors:
        return ""
    starts = (float("-inf"), *ERROR_ENDS)
    ends = (*ERROR_ENDS, float("inf"))
    names = ["0", *(f"{a:g}–{b:g}" for a, b in pairwise(ERROR_ENDS)), f"> {ERROR_ENDS[-1]:g}"]
    series: dict[str, list[Bar | None]] = {}
    for name, values in errors.items():
        shares = [sum(a < v <= b for v in values) / len(values) for a, b in zip(starts, ends, strict=True)]
        series[name] = [Bar(share, share, share) for share in shares]
    said = (
        "<p class='soft'>Distance in pixels from the pointer to the cursor found anywhere in the generated frame.</p>"
    )
    return "<h2>Cursor error</h2>" + said + bars([f"{n} px" for n in names], series, y_label="share of frames")


def _measures(report: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    columns = [report[model][steps] for model, _, steps in (name.partition("-") for name in models)]
    rows = [[text, *(cell(column[key]) for column in columns)] for key, text in MEASURES]
    tails = [number(column["cursor_error_px"].get("p95")) for column in columns]
    rows.insert(2, ["cursor error, px (95 % of frames below)", *tails])
    rows += further_rows(columns, known=[key for key, _ in MEASURES])
    return "<h2>All measures</h2>" + table(["", *map(label, models)], rows) + reasons(columns)


def _speed(report: Mapping[str, Any]) -> str:
    rows = [
        [
            label(f"{model}-{steps}"),
            cell(row["frames_per_second"]),
            number(row["latency_ms"]["p50"]),
            number(row["latency_ms"]["p95"]),
        ]
        for model, by_steps in report["speed"].items()
        for steps, row in by_steps.items()
    ]
    head = ("one session, decode included", "frames a second", "p50, ms", "p95, ms")
    return "<h2>Speed</h2>" + table(head, rows)


def _tokenizer(measures: Mapping[str, Any], unit: Mapping[str, Any], evaluation: Path) -> str:
    said = f"<p>PSNR {cell(measures['psnr_db'])} dB, SSIM {cell(measures['ssim'])}"
    if measures["cursor_error_px"]["trials"]:
        errors, instrument = measures["cursor_error_px"], measures["cursor_instrument_px"]
        said += (
            f"; cursor error {cell(errors)} px, 95 % of frames below {number(errors['p95'])} px"
            f" (in the real frames {number(instrument['median'])} and {number(instrument['p95'])} px)"
        )
    said += "</p>"
    strip = picture(evaluation, unit["pictures"]["reconstruction"], "real above, reconstructed below")
    rows = further_rows([measures], known=TOKENIZER)
    more = table(("of whole videos", "reconstructed"), rows) + reasons([measures]) if rows else ""
    return "<h2>Tokenizer</h2>" + said + more + strip


def _timing(timing: Mapping[str, float]) -> str:
    if not timing:
        return ""
    longest = max(max(timing.values()), 1e-9)
    rows = [[escape(name), f"{seconds:.1f}", _meter(seconds / longest)] for name, seconds in timing.items()]
    rows.append(["<b>all</b>", f"<b>{sum(timing.values()):.1f}</b>", ""])
    return "<h2>Time</h2>" + table(("stage", "seconds", ""), rows)


def _meter(share: float) -> str:
    return (
        f'<div style="width:420px;text-align:left"><span class="meter" style="width:{100 * share:.1f}%"></span></div>'
    )


def _setting(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    blocks = {
        "hardware and versions": {name: report[name] for name in ("hardware", "versions")},
        "rules": report["rules"],
    }
    blocks |= {f"{name} config": tree for name, tree in settings.items()}
    shown = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(tree, indent=2))}</pre></details>"
        for name, tree in blocks.items()
    )
    return "<h2>How it was measured</h2>" + shown
