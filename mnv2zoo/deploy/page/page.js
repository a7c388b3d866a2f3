// The page: takes a photo that is dropped, chosen or pasted, and shows its classes.

import { load } from "./classify.js";

const SHOWN = 5;
const element = (id) => document.getElementById(id);
const [drop, file, photo, status, results] = ["drop", "file", "photo", "status", "results"].map(element);
let address = null;
let latest = 0;

function say(text, failed = false) {
  status.textContent = text;
  status.classList.toggle("error", failed);
}

function show(rows) {
  const body = results.tBodies[0];
  body.replaceChildren(...rows.slice(0, SHOWN).map(({ label, score }) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = label;
    const value = document.createElement("td");
    value.textContent = score.toFixed(4);
    const bar = document.createElement("meter");
    bar.value = score;
    bar.ariaHidden = "true";
    const last = document.createElement("td");
    last.append(bar);
    row.append(name, value, last);
    return row;
  }));
  results.hidden = false;
}

async function take(classify, chosen) {
  if (!chosen) return;
  const own = ++latest; // a photo that comes meanwhile replaces this one
  results.hidden = true;
  say("Classifying …");
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(chosen);
  photo.src = address;
  photo.hidden = false;
  try {
    const started = performance.now();
    const rows = await classify(chosen);
    if (own !== latest) return;
    show(rows);
    say(`${chosen.name}: ${Math.round(performance.now() - started)} ms`);
  } catch (error) {
    if (own !== latest) return;
    photo.hidden = true;
    say(error.message, true);
  }
}

function listen(classify) {
  file.disabled = false;
  file.addEventListener("change", () => take(classify, file.files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", () => drop.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(classify, event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => take(classify, event.clipboardData.files[0]));
}

try {
  const { manifest, classify } = await load();
  document.title = element("title").textContent = `Classify a photo with ${manifest.name}`;
  listen(classify);
  say("Ready.");
} catch (error) {
  say(`The model could not be loaded: ${error.message}`, true);
}
