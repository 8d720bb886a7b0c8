// What is drawn: frames from the server onto canvases, their size on the page, and the difference of two of them.

export const CODECS = { 1: "image/jpeg", 2: "image/webp", 3: "image/png" };
const HEADER_BYTES = 40;
const CLEARLY_WRONG = 64; // a difference of so many levels is drawn at full strength

// The header and images of one binary message; tools/messages.py FrameHeader says where each field lies.
export function unpack(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER_BYTES || view.getUint8(0) !== 1) throw new Error("a frame of another version: reload the page");
  const type = CODECS[view.getUint8(1)];
  const dreamedSize = view.getUint32(32, true), realSize = view.getUint32(36, true);
  const image = (start, size) => new Blob([new Uint8Array(buffer, start, size)], { type });
  return {
    width: view.getUint16(2, true),
    height: view.getUint16(4, true),
    frame: view.getUint32(8, true),
    number: view.getUint32(12, true),
    at: view.getFloat64(16, true), // not a number where the frame shows no input
    modelMs: view.getFloat32(24, true),
    dreamed: image(HEADER_BYTES, dreamedSize),
    real: realSize ? image(HEADER_BYTES + dreamedSize, realSize) : null,
  };
}

export async function decode(blob) {
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

export function draw(canvas, bitmap) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d", { alpha: false, willReadFrequently: true }).drawImage(bitmap, 0, 0);
}

// Draws where two canvases of one size differ, and gives their likeness as PSNR in dB (Infinity for equal ones).
export function drawDifference(canvas, dreamed, real) {
  const { width, height } = dreamed;
  if (real.width !== width || real.height !== height) return NaN;
  const a = pixels(dreamed), b = pixels(real);
  const out = new ImageData(width, height);
  let squares = 0;
  for (let i = 0; i < a.length; i += 4) {
    let most = 0;
    for (let c = 0; c < 3; c++) {
      const gap = Math.abs(a[i + c] - b[i + c]);
      squares += gap * gap;
      most = Math.max(most, gap);
    }
    const strength = Math.min(1, most / CLEARLY_WRONG);
    out.data[i] = 255 * Math.sqrt(strength);
    out.data[i + 1] = 190 * strength;
    out.data[i + 2] = 90 * strength * strength;
    out.data[i + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(out, 0, 0);
  return 10 * Math.log10((255 * 255) / (squares / (3 * width * height)));
}

function pixels(canvas) {
  return canvas.getContext("2d", { alpha: false, willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height).data;
}

// The largest whole number of CSS pixels to one pixel of the world at which all shown views fit on the stage.
export function wholeScale(stage, views, width, height) {
  const style = getComputedStyle(stage);
  const gap = parseFloat(style.columnGap) || 0;
  const caption = 28;
  const roomX = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const roomY = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
  for (let scale = 24; scale > 1; scale--) {
    const across = Math.floor((roomX + gap) / (width * scale + gap));
    const down = Math.ceil(views / Math.max(1, across));
    if (across >= 1 && down * (height * scale + caption + gap) - gap <= roomY) return scale;
  }
  return 1;
}

export function resize(canvas, scale, width, height) {
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
}
