// What a person does on the canvas, as messages: the pointer in pixels of the world, buttons, keys by physical code, the wheel.

const BUTTONS = [["left", 1], ["right", 2], ["middle", 4]]; // bits of PointerEvent.buttons
const NOTCH_PIXELS = 100; // of the wheel, as browsers report one notch

export class Hand {
  // `say` sends a message; `onHeld` hears of every press and release.
  constructor(canvas, say, onHeld) {
    this.canvas = canvas;
    this.say = say;
    this.onHeld = onHeld;
    this.space = { buttons: [], keys: [], wheel: false, pointer: "none" };
    this.held = new Set();
    this.place = null;
    this.turned = [0, 0];
    this.listen();
  }

  // The world's ActionSpace, and its size in pixels.
  know(space, width, height) {
    this.space = space;
    this.size = [width, height];
    this.forget();
  }

  // The server holds nothing any more, so neither does the page.
  forget() {
    for (const target of this.held) this.onHeld(target, false);
    this.held.clear();
    this.place = null;
    this.turned = [0, 0];
  }

  listen() {
    const canvas = this.canvas;
    for (const name of ["pointerdown", "pointermove", "pointerup"]) canvas.addEventListener(name, (event) => this.pointer(event));
    canvas.addEventListener("pointercancel", () => this.letGo());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event, "press"));
    canvas.addEventListener("keyup", (event) => this.key(event, "release"));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("mousedown", (event) => { event.preventDefault(); canvas.focus({ preventScroll: true }); });
    canvas.addEventListener("auxclick", (event) => event.preventDefault());
    canvas.addEventListener("blur", () => this.letGo());
    window.addEventListener("blur", () => this.letGo());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.letGo(); });
  }

  // A drag that leaves the canvas goes on at its edge, as a real pointer stops at the edge of a screen.
  pointer(event) {
    if (!event.isPrimary || !this.size) return;
    if (event.type === "pointerdown") {
      this.canvas.setPointerCapture(event.pointerId);
      this.canvas.focus({ preventScroll: true });
    }
    const box = this.canvas.getBoundingClientRect();
    const [width, height] = this.size;
    const x = Math.floor(((event.clientX - box.left) * width) / box.width);
    const y = Math.floor(((event.clientY - box.top) * height) / box.height);
    this.move(Math.min(width - 1, Math.max(0, x)), Math.min(height - 1, Math.max(0, y)));
    for (const [target, bit] of BUTTONS) this.set(target, (event.buttons & bit) !== 0);
  }

  move(x, y) {
    if (this.space.pointer === "none" || (this.place && this.place[0] === x && this.place[1] === y)) return;
    this.place = [x, y];
    this.canvas.dataset.pointer = `${x},${y}`;
    this.say({ kind: "pointer", x, y, at: performance.now() });
  }

  set(target, down) {
    if (this.held.has(target) === down) return;
    if (!this.space.buttons.includes(target) && !this.space.keys.includes(target)) return;
    if (down) this.held.add(target); else this.held.delete(target);
    this.onHeld(target, down);
    this.say({ kind: down ? "press" : "release", target, at: performance.now() });
  }

  key(event, kind) {
    if (event.code.startsWith("Meta") && kind === "release") this.letGo(); // macOS keeps back the keyup of keys held with it
    const known = this.space.keys.includes(event.code);
    const scrolls = ["Space", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End", "Backspace", "Quote", "Slash"].includes(event.code);
    const shortcut = (event.ctrlKey || event.metaKey) && !this.space.keys.some((key) => key.startsWith("Control") || key.startsWith("Meta"));
    if (shortcut && kind === "press") return;
    if (known || scrolls) event.preventDefault();
    if (known && !event.repeat) this.set(event.code, kind === "press");
  }

  wheel(event) {
    if (!this.space.wheel) return;
    event.preventDefault();
    const unit = [1 / NOTCH_PIXELS, 1 / 3, 1][event.deltaMode]; // pixels, lines, pages
    this.turned[0] += event.deltaX * unit;
    this.turned[1] += event.deltaY * unit;
    const [dx, dy] = this.turned.map((turn) => Math.max(-100, Math.min(100, Math.trunc(turn))));
    if (dx === 0 && dy === 0) return;
    this.turned[0] -= dx;
    this.turned[1] -= dy;
    this.say({ kind: "wheel", dx, dy, at: performance.now() });
  }

  // Nobody sees a key go up while the page has no focus, so all are let go at once.
  letGo() {
    if (this.held.size === 0) return;
    for (const target of this.held) this.onHeld(target, false);
    this.held.clear();
    this.say({ kind: "blur" });
  }
}
