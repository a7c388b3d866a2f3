// The model, its labels and its preprocessing: from a photo's file to its classes.

import * as ort from "./ort.js";
import { prepare } from "./preprocess.js";

const MOST_PIXELS = 64_000_000; // as much as a phone's camera makes; a canvas of more may fail
const MOST_ASPECT = 500; // as predict.py has it

async function fetched(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`cannot load ${name}: ${response.status}`);
  return response;
}

/** A file's pixels as RGB: upright, in the first frame, and transparent parts on white, as predict.py reads them. */
export async function read(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("This browser cannot read that file as an image.");
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) throw new Error(`The photo is too large: ${width} x ${height} pixels.`);
  if (Math.max(width, height) > MOST_ASPECT * Math.min(width, height)) throw new Error("The photo is too thin.");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    [rgb[to], rgb[to + 1], rgb[to + 2]] = [data[from], data[from + 1], data[from + 2]];
  }
  return { rgb, width, height };
}

/** Probabilities from logits, divided by the temperature that the weights are calibrated with. */
export function softmax(logits, temperature = 1) {
  const highest = logits.reduce((most, value) => Math.max(most, value), -Infinity);
  const scores = Array.from(logits, (value) => Math.exp((value - highest) / temperature));
  const sum = scores.reduce((total, value) => total + value, 0);
  return scores.map((value) => value / sum);
}

/** Loads the model; gives its manifest, and a function from a file to rows of class, label and score, the best first. */
export async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort.wasm", import.meta.url).href };
  const [manifest, config, labels, model] = await Promise.all([
    fetched("manifest.json").then((response) => response.json()),
    fetched("preprocess.json").then((response) => response.json()),
    fetched("labels.txt").then((response) => response.text()),
    fetched("model.onnx").then((response) => response.arrayBuffer()),
  ]);
  const names = labels.replace(/\n$/, "").split("\n");
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const [given, taken] = [session.inputNames[0], session.outputNames[0]];
  async function classify(file) {
    const { rgb, width, height } = await read(file);
    const input = prepare(rgb, width, height, config);
    const outputs = await session.run({ [given]: new ort.Tensor("float32", input, [1, ...config.input_size]) });
    const scores = softmax(outputs[taken].data, config.temperature);
    return scores
      .map((score, index) => ({ class: index, label: names[index], score }))
      .sort((one, other) => other.score - one.score);
  }
  return { manifest, classify };
}
