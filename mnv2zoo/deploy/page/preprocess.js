// From a photo's pixels to what the network sees, as predict.py prepares them: Pillow's resize, in its own integers.
// A canvas resizes in another way, and scores would differ.

const BITS = 22; // of a weight's fraction, in Pillow's Resample.c

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Pillow's filters: their support, and their value at x.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => {
    const [a, t] = [-0.5, Math.abs(x)];
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// For each output pixel of a line, the first input pixel that it takes, and the weights of that one and those after it.
function weights(from, to, [support, filter]) {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // antialiasing: the filter is as wide as an output pixel
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(center + support * stretch + 0.5), from);
    const own = [];
    for (let x = first; x < last; x++) own.push(filter((x - center + 0.5) / stretch));
    const sum = own.reduce((total, value) => total + value, 0);
    const whole = own.map((value) => {
      const scaled = (sum === 0 ? value : value / sum) * (1 << BITS);
      return Math.trunc(scaled + (scaled < 0 ? -0.5 : 0.5));
    });
    return [first, whole];
  });
}

const clip = (value) => Math.min(255, Math.max(0, value >> BITS));

// Resizes lines of RGB pixels along one axis. `step` leads to the next pixel of a line, and `next` to the next line.
function along(source, target, plan, count, step, next, targetStep, targetNext) {
  for (let line = 0; line < count; line++) {
    for (let place = 0; place < plan.length; place++) {
      const [first, own] = plan[place];
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (BITS - 1);
        let at = line * next + first * step + channel;
        for (let k = 0; k < own.length; k++, at += step) sum += source[at] * own[k];
        target[line * targetNext + place * targetStep + channel] = clip(sum);
      }
    }
  }
}

// The input pixel of each output pixel. Pillow adds up the steps, so their rounding errors add up too.
function places(from, to) {
  const step = from / to;
  let at = step * 0.5;
  return Array.from({ length: to }, () => {
    const place = Math.trunc(at);
    at += step;
    return place;
  });
}

function nearest(rgb, width, height, toWidth, toHeight) {
  const [columns, rows] = [places(width, toWidth), places(height, toHeight)];
  const target = new Uint8Array(toWidth * toHeight * 3);
  rows.forEach((row, y) => columns.forEach((column, x) => {
    const at = (row * width + column) * 3;
    target.set(rgb.subarray(at, at + 3), (y * toWidth + x) * 3);
  }));
  return target;
}

/** Resizes RGB pixels as Pillow does: first along rows, then along columns, each rounded to 8 bits. */
export function resize(rgb, width, height, toWidth, toHeight, interpolation) {
  if (interpolation === "nearest") return nearest(rgb, width, height, toWidth, toHeight);
  const filter = FILTERS[interpolation];
  if (!filter) throw new Error(`unknown interpolation: ${interpolation}`);
  let pixels = rgb;
  if (toWidth !== width) {
    const wide = new Uint8Array(toWidth * height * 3);
    along(pixels, wide, weights(width, toWidth, filter), height, 3, width * 3, 3, toWidth * 3);
    pixels = wide;
  }
  if (toHeight !== height) {
    const high = new Uint8Array(toWidth * toHeight * 3);
    along(pixels, high, weights(height, toHeight, filter), toWidth, toWidth * 3, 3, toWidth * 3, 3);
    pixels = high;
  }
  return pixels;
}

// Python's rounding: halves go to the even number.
function round(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** How a photo is fitted into the network's input: its size once resized, and where the input begins in it. */
export function fit(width, height, config) {
  const [, high, wide] = config.input_size;
  const [down, across] = [high, wide].map((side) => Math.floor(side / config.crop_pct));
  const mode = config.crop_mode ?? "center";
  let size;
  if (mode === "squash") {
    size = [across, down];
  } else if (mode === "center" && across === down) {
    const other = Math.trunc((down * Math.max(width, height)) / Math.min(width, height));
    size = width <= height ? [down, other] : [other, down];
  } else if (mode === "center" || mode === "border") {
    const ratio = (mode === "border" ? Math.max : Math.min)(height / down, width / across);
    size = [Math.max(round(width / ratio), 1), Math.max(round(height / ratio), 1)];
  } else {
    throw new Error(`unknown crop mode: ${mode}`);
  }
  const [left, top] = [[size[0], wide], [size[1], high]].map(([have, side]) =>
    have >= side ? round((have - side) / 2) : -Math.floor((side - have) / 2));
  return { size, left, top };
}

/** Makes of RGB pixels what the network sees: (3, height, width), resized, cut and normalized. */
export function prepare(rgb, width, height, config) {
  const [, high, wide] = config.input_size;
  const { size: [across, down], left, top } = fit(width, height, config);
  const pixels = resize(rgb, width, height, across, down, config.interpolation.toLowerCase());
  const input = new Float32Array(3 * high * wide);
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = [Math.fround(config.mean[channel]), Math.fround(config.std[channel])];
    const padding = config.crop_mode === "border" ? round(255 * config.mean[channel]) : 0;
    for (let y = 0; y < high; y++) {
      for (let x = 0; x < wide; x++) {
        const [row, column] = [y + top, x + left];
        const inside = row >= 0 && row < down && column >= 0 && column < across;
        const value = inside ? pixels[(row * across + column) * 3 + channel] : padding;
        input[(channel * high + y) * wide + x] = Math.fround(Math.fround(value / 255) - mean) / std;
      }
    }
  }
  return input;
}
