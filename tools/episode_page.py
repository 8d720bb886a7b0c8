"""One recording as a page that needs nothing else: a slider over its frames, what was done at each, its transitions."""

import base64
import html
import json

import numpy as np

from data_pipeline.schema import Sample
from tools.overlay import drawn, words
from tools.pictures import encode
from wm.batch import ActionSpace

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
 body {{ font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 60em; background: #16181d; color: #e6e6e6 }}
 img {{ image-rendering: pixelated; border: 1px solid #444; max-width: 100% }}
 input {{ width: 100% }} table {{ border-collapse: collapse }} td {{ padding: 1px 12px 1px 0 }} a {{ color: #8ab4ff }}
</style>
<h1>{title}</h1>
<p>{about}</p>
<img id="screen" alt="a frame of the recording with the actions drawn on it">
<input id="place" type="range" min="0" value="0" aria-label="frame">
<p id="said"></p>
<p>Arrow keys go frame by frame, space plays.</p>
<table id="events"></table>
<script>
const episode = {episode};
const place = document.getElementById("place"), screen_ = document.getElementById("screen");
place.max = episode.frames.length - 1;
function show(i) {{
  i = Math.min(Math.max(i, 0), episode.frames.length - 1);
  place.value = i;
  screen_.src = "data:image/webp;base64," + episode.frames[i];
  document.getElementById("said").textContent =
    `frame ${{i}}, ${{(i / episode.fps).toFixed(2)}} s: ${{episode.words[i] || "nothing done"}}`;
}}
place.oninput = () => show(+place.value);
let playing = null;
document.onkeydown = (event) => {{
  if (event.key === "ArrowLeft") show(+place.value - 1);
  else if (event.key === "ArrowRight") show(+place.value + 1);
  else if (event.key === " ") {{
    clearInterval(playing);
    playing = playing ? null : setInterval(() => show(+place.value + 1), 1000 / episode.fps);
  }} else return;
  event.preventDefault();
}};
episode.events.forEach((kinds, i) => {{
  if (!kinds.length) return;
  const row = document.getElementById("events").insertRow(), link = document.createElement("a");
  link.textContent = `frame ${{i}}`;
  link.href = "#";
  link.onclick = () => (show(i), false);
  row.insertCell().append(link);
  row.insertCell().textContent = kinds.join(", ");
}});
show(0);
</script>
</html>
"""


def page(sample: Sample, space: ActionSpace, fps: float) -> str:
    """The HTML text; ValueError for a clip without frames."""
    frames = [base64.b64encode(_picture(frame)).decode() for frame in drawn(sample, space)]
    episode = {
        "fps": fps,
        "frames": frames,
        "words": [words(sample, space, i) for i in range(len(sample))],
        "events": sample.meta.get("events", [[]] * len(sample)),
    }
    shown = ("environment", "version", "policy", "seed", "source")
    about = ", ".join(f"{name} {sample.meta[name]}" for name in shown if name in sample.meta)
    # A "</script>" in somebody's data must not end the script.
    return _PAGE.format(
        title=html.escape(sample.key), about=html.escape(about), episode=json.dumps(episode).replace("</", "<\\/")
    )


def _picture(frame: np.ndarray) -> bytes:
    return encode(frame, "webp")
