// One page at play: the socket, the buttons, the numbers. No library, no build step, nothing from elsewhere.

import { Hand } from "./hand.js";
import { decode, draw, drawDifference, resize, unpack, wholeScale } from "./screen.js";

const $ = (id) => document.getElementById(id);
const canvases = { dreamed: $("dreamed"), real: $("real"), difference: $("difference") };
const hand = new Hand(canvases.dreamed, say, showHeld);

let socket = null;
let world = null; // the server's hello
let drawing = Promise.resolve(); // frames are drawn in the order of their coming
let drawnAt = []; // times of the last drawn frames
let waits = []; // ms from an input to the frame that showed it
let recording = false;
let lostAt = 0; // when the line was lost; 0 while it holds, and after a goodbye

function say(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/play`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => say({ kind: "open", token: sessionStorage.getItem("token") ?? "", session: world?.session ?? "" });
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : show(data));
  socket.onclose = ({ code }) => leave(code);
}

function hear(message) {
  const answers = {
    hello: () => meet(message),
    begun: () => begun(message),
    idle: () => notice(message.on ? "The world rests while nobody plays. Move the mouse to go on." : ""),
    recording: () => setRecording(message.on),
    redacting: () => { $("redact").checked = message.on; },
    saved: () => { $("saved").textContent = `Saved ${message.actions} and ${message.video}`; },
    error: () => complain(message),
  };
  answers[message.kind]?.();
}

function meet(hello) {
  world = hello;
  lostAt = 0;
  document.title = `${hello.world} – wm`;
  $("world").textContent = hello.world;
  setLink(true, "connected");
  notice("");
  canvases.dreamed.dataset.resumed = String(hello.resumed);
  $("dreamed-caption").textContent = hello.dreams ? "dreamed" : "real";
  say({ kind: "redact", on: $("redact").checked });
  if (hello.resumed) { // all is as it was behind the page; what was set on it meanwhile is said again
    settings();
    return;
  }
  fill($("model"), Object.keys(hello.models).map((name) => [name, name]));
  const starts = hello.environment ? [["", "the real environment"]] : [];
  for (let i = 0; i < hello.num_starts; i++) starts.push([String(i), `recording ${i + 1}`]);
  fill($("start"), starts);
  legend(hello.space);
  hand.know(hello.space, hello.width, hello.height);
  $("model").value = hello.begin.model;
  $("start").value = hello.begin.start ?? "";
  $("num-steps").value = hello.models[hello.begin.model];
  for (const canvas of Object.values(canvases)) {
    canvas.width = hello.width;
    canvas.height = hello.height;
  }
  fit();
  settings();
  reset();
}

function reset() {
  if (!world || !$("begin").reportValidity()) return;
  const start = $("start").value;
  say({
    kind: "reset",
    begin: {
      seed: Number($("seed").value),
      start: start === "" ? null : Number(start),
      model: $("model").value,
      num_steps: Number($("num-steps").value),
    },
  });
}

function begun({ begin, real }) {
  hand.forget();
  waits = [];
  canvases.dreamed.dataset.begun = String(Number(canvases.dreamed.dataset.begun ?? 0) + 1);
  canvases.dreamed.dataset.seed = String(begin.seed);
  notice("");
  for (const id of ["show-real", "show-difference"]) {
    $(id).disabled = !real;
    if (!real) $(id).checked = false;
  }
  showViews();
}

function show(buffer) {
  drawing = drawing.then(() => drawFrame(unpack(buffer))).catch((error) => notice(String(error.message ?? error), true));
}

async function drawFrame(frame) {
  const [dreamed, real] = await Promise.all([decode(frame.dreamed), frame.real ? decode(frame.real) : null]);
  draw(canvases.dreamed, dreamed);
  dreamed.close();
  if (real) {
    draw(canvases.real, real);
    real.close();
  }
  if (real) likeness(drawDifference(canvases.difference, canvases.dreamed, canvases.real));
  say({ kind: "ack", frame: frame.frame });
  count(frame);
}

function count(frame) {
  const now = performance.now();
  drawnAt = drawnAt.filter((time) => now - time < 2000).concat(now);
  if (Number.isFinite(frame.at) && frame.at > 0) waits = waits.concat(now - frame.at).slice(-25);
  const span = (now - drawnAt[0]) / 1000;
  $("fps").textContent = drawnAt.length > 1 ? `${((drawnAt.length - 1) / span).toFixed(1)} of ${world.space.fps}` : "–";
  $("latency").textContent = waits.length ? `${[...waits].sort((a, b) => a - b)[waits.length >> 1].toFixed(0)} ms` : "–";
  $("model-time").textContent = frame.number ? `${frame.modelMs.toFixed(frame.modelMs < 10 ? 1 : 0)} ms` : "–";
  $("number").textContent = frame.number;
  canvases.dreamed.dataset.frame = String(frame.number);
  canvases.dreamed.dataset.drawn = String(Number(canvases.dreamed.dataset.drawn ?? 0) + 1);
}

function likeness(decibels) {
  $("likeness").textContent = Number.isFinite(decibels) ? `${decibels.toFixed(1)} dB` : "equal";
}

function showViews() {
  const real = $("show-real").checked, difference = $("show-difference").checked;
  $("real-view").hidden = !real;
  $("difference-view").hidden = !difference;
  $("likeness-box").hidden = !(real || difference);
  settings();
  fit();
}

function settings() {
  say({
    kind: "settings",
    pacing: $("pacing").value,
    codec: $("codec").value,
    real: $("show-real").checked || $("show-difference").checked,
  });
}

function fit() {
  if (!world) return;
  const views = 1 + $("show-real").checked + $("show-difference").checked;
  const scale = wholeScale($("stage"), views, world.width, world.height);
  for (const canvas of Object.values(canvases)) resize(canvas, scale, world.width, world.height);
}

function legend(space) {
  const pointer = space.pointer === "none" ? [] : [["pointer", ""]];
  const buttons = space.buttons.map((name) => [`${name} button`, name]);
  const keys = space.keys.map((code) => [code.replace(/^(Key|Digit)/, ""), code]);
  $("keys").replaceChildren(...[...pointer, ...buttons, ...(space.wheel ? [["wheel", ""]] : []), ...keys].map(([text, target]) => {
    const item = document.createElement("li");
    item.textContent = text;
    item.dataset.target = target;
    item.title = target;
    return item;
  }));
}

function showHeld(target, down) {
  $("keys").querySelector(`[data-target="${CSS.escape(target)}"]`)?.classList.toggle("held", down);
}

function fill(select, choices) {
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
}

function setRecording(on) {
  recording = on;
  $("record").textContent = on ? "Stop and save" : "Record";
  $("record").setAttribute("aria-pressed", String(on));
  if (on) $("saved").textContent = "";
}

function complain({ code, message }) {
  if (code === "token") {
    $("ask").showModal();
    return;
  }
  if (code === "session") world.session = ""; // another server answers there now: begin anew with it
  notice(message, true);
}

function notice(text, bad = false) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
  $("notice").classList.toggle("bad", bad);
}

function setLink(on, text) {
  $("link").className = on ? "on" : "off";
  $("link").textContent = text;
}

function leave(code) {
  setLink(false, "not connected");
  setRecording(recording && code === 1006);
  hand.forget();
  // 1006: the line broke, nobody said goodbye. The server keeps the session for a while; after it, a new one begins.
  if (world && (code === 1006 || lostAt)) {
    lostAt ||= performance.now();
    if (performance.now() - lostAt < 2000 * world.grace_seconds) {
      notice("The line is lost. Trying to come back …", true);
      setTimeout(connect, 1000);
      return;
    }
  }
  if (!$("ask").open && $("notice").hidden) notice("The server has gone or has dropped this page. Reload it to play again.", true);
}

function anotherSeed() {
  $("seed").value = Math.floor(Math.random() * 1e6);
  reset();
}

$("begin").addEventListener("submit", (event) => { event.preventDefault(); reset(); });
$("another").addEventListener("click", anotherSeed);
$("model").addEventListener("change", () => { $("num-steps").value = world.models[$("model").value]; reset(); });
for (const id of ["start", "seed", "num-steps"]) $(id).addEventListener("change", reset);
for (const id of ["show-real", "show-difference"]) $(id).addEventListener("change", showViews);
$("redact").addEventListener("change", () => say({ kind: "redact", on: $("redact").checked }));
for (const id of ["pacing", "codec"]) $(id).addEventListener("change", settings);
$("record").addEventListener("click", () => say({ kind: "record", on: !recording }));
$("ask").addEventListener("close", () => { sessionStorage.setItem("token", $("token").value); connect(); });
new ResizeObserver(fit).observe($("stage"));

// Shortcuts of the page hold only where nobody is typing: not in the world, not in a field.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (document.activeElement === canvases.dreamed || document.activeElement?.matches("input, select, button, dialog *")) return;
  if (event.code === "KeyR") reset();
  if (event.code === "KeyN") anotherSeed();
});

connect();
