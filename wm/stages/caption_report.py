"""The report of a text-to-video world: rates of clips that show what their captions say, as report.json and one page."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from wm.caption_match import ALL
from wm.durable import write_text
from wm.stages.evaluate import read_unit
from wm.stages.evaluate_captions import VAE, EvaluateCaptionsConfig
from wm.stages.further_rows import further_rows, reasons
from wm.stages.markup import label, number, picture, table
from wm.stages.page import STYLE
from wm.stages.report import FORMAT_VERSION, hardware, judged, versions


def write_caption_report(
    folder: Path,
    *,
    evaluation: Path,
    config: EvaluateCaptionsConfig,
    timing: Mapping[str, float],
    world: str,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `folder`/report.json and report.html from the units in `evaluation`; what comes back is report.json's tree."""
    names = (VAE, *(f"{model}-{steps}" for model, steps in config.units()))
    units = {name: _measures(evaluation, name) for name in names}
    hidden = ("clips", "picture")
    tree: dict[str, Any] = {name: {k: v for k, v in unit.items() if k not in hidden} for name, unit in units.items()}
    report = {"format_version": FORMAT_VERSION, "world": world} | tree
    report |= {
        "targets": [judged(target, tree) for target in config.targets],
        "timing": {name: round(seconds, 1) for name, seconds in timing.items()},
        "seed": seed,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_text(folder / "report.json", json.dumps(report, indent=2, allow_nan=False))
    write_text(folder / "report.html", _page(report, units, evaluation, settings))
    return report


def _measures(evaluation: Path, name: str) -> dict[str, Any]:
    unit = read_unit(evaluation / f"{name}.json")
    if unit is None:
        raise ValueError(f"{evaluation / name}.json is missing: the evaluation is not finished; run the evaluate stage")
    measures: dict[str, Any] = unit["measures"]
    return measures


def _page(
    report: Mapping[str, Any], units: Mapping[str, Mapping[str, Any]], evaluation: Path, settings: Mapping[str, Any]
) -> str:
    machine = report["hardware"]
    parts = [
        f"<h1>{escape(report['world'])}</h1><p class='soft'>clips drawn from captions that were not trained on · seed "
        f"{report['seed']} · {machine['cores']} cores of {escape(machine['cpu'])} · 95 % intervals in brackets</p>",
        _targets(report),
        _rates(units),
        *(_clips(name, unit, evaluation) for name, unit in list(units.items())[::-1]),
        "<h2>Time</h2>" + table(("stage", "seconds"), [[escape(k), f"{v:.1f}"] for k, v in report["timing"].items()]),
        "<h2>How it was measured</h2>",
        *(
            f"<details><summary>{escape(name)} config</summary><pre>{escape(json.dumps(tree, indent=2))}</pre></details>"
            for name, tree in settings.items()
        ),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(report['world'])}: report</title><style>{STYLE}</style></head><body><main>\n{body}\n"
        "</main></body></html>\n"
    )


def _targets(report: Mapping[str, Any]) -> str:
    words = {True: '<span class="good">pass</span>', False: '<span class="bad">miss</span>', None: "not measured"}
    rows = [
        [escape(target["name"]), f"≥ {target.get('at_least', 0):g}", _cell(target), words[target["passed"]]]
        for target in report["targets"]
    ]
    return "<h2>Against the targets</h2>" + table(("measure", "target", "measured", ""), rows) if rows else ""


def _rates(units: Mapping[str, Mapping[str, Any]]) -> str:
    aspects = [name for name in next(iter(units.values()))["clips"][0] if name != "caption"]
    rows = [
        [aspect if aspect != ALL else "all at once", *(_cell(unit[aspect]) for unit in units.values())]
        for aspect in aspects
    ]
    speed = [number(unit.get("frames_per_second")) for unit in units.values()]
    decibel = [_cell(unit["psnr_db"]) if "psnr_db" in unit else "–" for unit in units.values()]
    heads = ["tokenizer" if name == VAE else label(name) for name in units]
    rows += [["frames a second", *speed], ["PSNR, dB", *decibel]]
    columns = list(units.values())
    rows += further_rows(columns, known=[*aspects, "psnr_db", "real_all"])
    return "<h2>Clips as the captions say</h2>" + table(("", *heads), rows) + reasons(columns)


def _clips(name: str, unit: Mapping[str, Any], evaluation: Path) -> str:
    lines = []
    for clip in unit["clips"]:
        wrong = [aspect for aspect, right in clip.items() if aspect not in ("caption", ALL) and not right]
        verdict = f'<span class="bad">wrong: {", ".join(wrong)}</span>' if wrong else '<span class="good">right</span>'
        lines.append([escape(clip["caption"]), verdict])
    title = "real clips through the tokenizer" if name == VAE else label(name)
    shown = picture(evaluation, unit["picture"], "a clip a row, in the order of the table")
    return f"<h2>{escape(title)}</h2>" + shown + table(("caption", ""), lines)


def _cell(row: Mapping[str, Any]) -> str:
    if row.get("value") is None:
        return "–"
    text = number(row["value"])
    if row.get("low") is not None:
        text += f" <small>[{number(row['low'])}, {number(row['high'])}]</small>"
    return text
