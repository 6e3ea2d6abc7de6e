// Heat map over an image, in the colours of the report's figures. It is transparent where it is
// coolest, so a map that is warm everywhere does not hide the image.

const HEATS = [0, 0.35, 0.6, 0.8, 1];
const COLOURS = [[66, 92, 214], [46, 176, 190], [246, 212, 70], [240, 130, 42], [200, 28, 44]];
const STRONGEST = 0.7; // share of the colour at the peak
const FINE = 192; // side of a smooth map, in pixels

/** A canvas with the heat (rows from the top, values from 0), smooth or in its cells. */
export function heatMap(heat, smooth) {
  const [low, peak] = [Math.min(...heat.flat()), Math.max(...heat.flat())];
  const [rows, columns] = smooth ? [FINE, FINE] : [heat.length, heat[0].length];
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const at = smooth ? between(heat, y, x) : heat[y][x];
      const hot = peak > low ? Math.min(1, Math.max(0, (at - low) / (peak - low))) : 0;
      image.data.set([...colour(hot), 255 * STRONGEST * hot], 4 * (y * columns + x));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Heat at a pixel of the smooth map, by cubic interpolation (Catmull-Rom). */
function between(heat, y, x) {
  const [near, down] = weights(y, heat.length);
  const [across, right] = weights(x, heat[0].length);
  let sum = 0;
  for (let i = 0; i < 4; i++) {
    for (let j = 0; j < 4; j++) sum += down[i] * right[j] * heat[near[i]][across[j]];
  }
  return sum;
}

function weights(pixel, cells) {
  const position = ((pixel + 0.5) * cells) / FINE - 0.5;
  const first = Math.floor(position);
  const t = position - first;
  const near = [-1, 0, 1, 2].map((step) => Math.min(cells - 1, Math.max(0, first + step)));
  const share = [
    t * (-0.5 + t * (1 - 0.5 * t)),
    1 + t * t * (-2.5 + 1.5 * t),
    t * (0.5 + t * (2 - 1.5 * t)),
    t * t * (-0.5 + 0.5 * t),
  ];
  return [near, share];
}

function colour(hot) {
  const i = Math.max(1, HEATS.findIndex((own) => own >= hot));
  const share = (hot - HEATS[i - 1]) / (HEATS[i] - HEATS[i - 1]);
  return COLOURS[i].map((high, c) => COLOURS[i - 1][c] * (1 - share) + high * share);
}
