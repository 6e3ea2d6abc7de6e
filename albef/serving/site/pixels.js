// Images to pixels, as in albef/preprocessing/transforms.py and Pillow.

const BITS = 22; // fractional bits of Pillow's weights

/** An encoded image as normalized pixels (3, S, S), transparent parts white. */
export async function pixels(blob, side, { mean, std }) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const small = resize(context.getImageData(0, 0, width, height).data, width, height, side);
  const scale = std.map((each) => Math.fround(1 / Math.fround(255 * Math.fround(each))));
  const shift = std.map((each, c) => Math.fround(Math.fround(mean[c]) / Math.fround(each)));
  const result = new Float32Array(3 * side * side);
  for (let i = 0; i < result.length; i++) {
    const c = Math.floor(i / side ** 2);
    result[i] = Math.fround(small[4 * (i - c * side ** 2) + c] * scale[c]) - shift[c];
  }
  return result;
}

/** RGBA bytes of one size to a square, bicubic: first across, then down, each rounded to bytes. */
export function resize(bytes, width, height, side) {
  if (width !== side) bytes = pass(bytes, height, side, 4 * width, 4, 4 * side, 4, weights(width, side));
  if (height !== side) bytes = pass(bytes, side, side, 4, 4 * side, 4, 4 * side, weights(height, side));
  return bytes;
}

/** Resize rows to `count` pixels; `step` is the distance of rows, `inner` of pixels in a row. */
function pass(bytes, rows, count, step, inner, stepOut, innerOut, kernels) {
  const result = new Uint8ClampedArray(4 * rows * count);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < count; i++) {
      const [first, kernel] = kernels[i];
      for (let c = 0; c < 4; c++) {
        let sum = 2 ** (BITS - 1);
        for (let j = 0; j < kernel.length; j++) sum += bytes[row * step + (first + j) * inner + c] * kernel[j];
        result[row * stepOut + i * innerOut + c] = Math.floor(sum / 2 ** BITS);
      }
    }
  }
  return result;
}

/** For each position in a line of `to`, the first position in a line of `from` and the weights from there. */
function weights(from, to) {
  const scale = from / to;
  const wide = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - 2 * wide + 0.5));
    const last = Math.min(from, Math.trunc(center + 2 * wide + 0.5));
    const raw = Array.from({ length: last - first }, (_, j) => cubic((j + first - center + 0.5) / wide));
    const sum = raw.reduce((a, b) => a + b, 0);
    return [first, raw.map((w) => Math.trunc((w / sum) * 2 ** BITS + (w < 0 ? -0.5 : 0.5)))];
  });
}

function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}
