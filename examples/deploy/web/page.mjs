// Draws digits, and shows what the network makes of them.
//
//     ink on the sheet --cropped, 8 x 8--> 64 numbers from 0 to 1 --network--> ten scores --softmax--> bars

import { Network } from "./specc.mjs";

const SIDE = 8; // pixels that the network sees, along each axis
const FINE = 32; // those that it was trained on were counted in: 4 x 4 of these make one
const PEN = 30; // the width of a line, in pixels of the sheet
const STEP = 10; // how far an arrow key moves the pen

const element = (id) => document.getElementById(id);
const sheet = element("ink");
const ink = sheet.getContext("2d", { willReadFrequently: true });
const fine = Object.assign(document.createElement("canvas"), { width: FINE, height: FINE });
const finer = fine.getContext("2d", { willReadFrequently: true });

// ---- what is drawn --------------------------------------------------------------------------------------------------

/** The smallest rectangle that holds all ink, or nothing. */
function bounds() {
  const { width, height } = sheet;
  const pixels = ink.getImageData(0, 0, width, height).data;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (pixels[4 * (y * width + x) + 3] > 64) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
      }
    }
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** The ink as the network's digits were made: moved to the middle, as large as fits, and counted in squares. */
function pixelsOfInk() {
  const found = bounds();
  if (!found) return null;
  const scale = FINE / Math.max(found.width, found.height);
  const [width, height] = [found.width * scale, found.height * scale];
  finer.clearRect(0, 0, FINE, FINE);
  finer.imageSmoothingQuality = "high";
  const place = [(FINE - width) / 2, (FINE - height) / 2, width, height];
  finer.drawImage(sheet, found.left, found.top, found.width, found.height, ...place);
  const alpha = finer.getImageData(0, 0, FINE, FINE).data;
  const image = new Float32Array(SIDE * SIDE);
  const cell = FINE / SIDE;
  for (let y = 0; y < FINE; y++) {
    for (let x = 0; x < FINE; x++) {
      const dark = alpha[4 * (y * FINE + x) + 3] / 255;
      image[Math.floor(y / cell) * SIDE + Math.floor(x / cell)] += dark / (cell * cell);
    }
  }
  return image;
}

const color = () => getComputedStyle(document.documentElement).getPropertyValue("--ink");

/** Shows an image of 8 x 8 pixels on a canvas of as many. */
function show(canvas, image) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, SIDE, SIDE);
  context.fillStyle = color();
  image.forEach((dark, i) => {
    context.globalAlpha = dark;
    context.fillRect(i % SIDE, Math.floor(i / SIDE), 1, 1);
  });
}

function line(from, to) {
  ink.strokeStyle = color();
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(...from);
  ink.lineTo(...to);
  ink.stroke();
}

// ---- what the network says ------------------------------------------------------------------------------------------

let network;
let image = null;
let timing;

function softmax(scores) {
  const greatest = Math.max(...scores);
  const weights = [...scores].map((score) => Math.exp(score - greatest));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

function run() {
  const [size] = network.sizes;
  return network.run({ [size.inputs[0].name]: image }, size)[size.outputs[0].name];
}

function showResult() {
  element("hint").hidden = image !== null;
  show(element("seen"), image ?? new Float32Array(SIDE * SIDE));
  const shares = image && network ? softmax(run()) : null;
  const best = shares ? shares.indexOf(Math.max(...shares)) : -1;
  [...element("shares").children].forEach((row, digit) => {
    const share = shares ? shares[digit] : 0;
    row.dataset.share = share;
    row.classList.toggle("best", digit === best);
    row.style.setProperty("--share", share);
    row.lastChild.textContent = shares ? `${(100 * share).toFixed(1)} %` : "";
  });
  element("digit").textContent = shares ? best : "";
  element("sure").textContent = shares ? `with ${(100 * shares[best]).toFixed(0)} % certainty` : "Nothing is drawn.";
  clearTimeout(timing);
  if (shares) timing = setTimeout(showTime, 100);
  else element("time").textContent = "";
}

/** The time of one run, from as many as fill some milliseconds: a browser's clock is coarse. */
function showTime() {
  const start = performance.now();
  let [runs, passed] = [0, 0];
  while (passed < 20) {
    for (let i = 0; i < 20; i++, runs++) run();
    passed = performance.now() - start;
  }
  const [value, unit] = passed / runs < 1 ? [(1000 * passed) / runs, "µs"] : [passed / runs, "ms"];
  element("time").textContent = `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
}

// ---- hands ----------------------------------------------------------------------------------------------------------

function press(digit) {
  [...element("samples").children].forEach((button, i) => button.setAttribute("aria-pressed", i === digit));
}

function drawn() {
  press(-1);
  image = pixelsOfInk();
  showResult();
}

function clear() {
  ink.clearRect(0, 0, sheet.width, sheet.height);
  drawn();
}

let last = null;

function place(event) {
  const box = sheet.getBoundingClientRect();
  return [((event.clientX - box.left) * sheet.width) / box.width, ((event.clientY - box.top) * sheet.height) / box.height];
}

sheet.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  if (sampled()) ink.clearRect(0, 0, sheet.width, sheet.height); // a sample is not drawn over
  element("pen").hidden = true;
  sheet.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
  drawn();
});
sheet.addEventListener("pointermove", (event) => {
  if (!last) return;
  for (const each of event.getCoalescedEvents?.() ?? [event]) {
    const next = place(each);
    line(last, next);
    last = next;
  }
  drawn();
});
for (const end of ["pointerup", "pointercancel"]) sheet.addEventListener(end, () => (last = null));

const sampled = () => element("samples").querySelector('[aria-pressed="true"]') !== null;

const pen = { at: [160, 80], down: false };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function movePen(step) {
  const before = pen.at;
  pen.at = before.map((value, axis) => Math.min(Math.max(value + STEP * step[axis], 0), sheet.width));
  if (pen.down) {
    line(before, pen.at);
    drawn();
  }
}

function showPen() {
  const mark = element("pen");
  mark.hidden = false;
  mark.classList.toggle("down", pen.down);
  [mark.style.left, mark.style.top] = pen.at.map((value) => `${(100 * value) / sheet.width}%`);
}

sheet.addEventListener("blur", () => {
  element("pen").hidden = true;
  pen.down = false;
});
sheet.addEventListener("keydown", (event) => {
  if (event.key === " ") {
    if (sampled()) clear();
    pen.down = !pen.down;
    movePen([0, 0]);
  } else if (event.key in ARROWS) {
    movePen(ARROWS[event.key]);
  } else {
    return;
  }
  event.preventDefault();
  showPen();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") clear();
  else if (/^[0-9]$/.test(event.key)) element("samples").children[Number(event.key)]?.click();
});
element("clear").addEventListener("click", clear);

/** A picture of a sample, that is chosen with a click; what the network gets are its pixels, and not what is seen. */
function addSample(pixels, digit) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.setAttribute("aria-label", `sample of a ${digit}`);
  button.setAttribute("aria-pressed", "false");
  const picture = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  button.append(picture);
  show(picture, pixels);
  button.addEventListener("click", () => {
    image = Float32Array.from(pixels);
    ink.clearRect(0, 0, sheet.width, sheet.height);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(picture, 0, 0, sheet.width, sheet.height);
    element("pen").hidden = true;
    press(digit);
    showResult();
  });
  element("samples").append(button);
}

// ---- the start ------------------------------------------------------------------------------------------------------

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${answer.statusText}`);
  return answer;
}

const bytes = async (path) => (await get(path)).arrayBuffer();
const kilobytes = (buffer) => `${(buffer.byteLength / 1000).toFixed(0)} kB`;

for (let digit = 0; digit < 10; digit++) {
  const row = document.createElement("li");
  row.innerHTML = `<span>${digit}</span><span class="track"><i></i></span><span></span>`;
  element("shares").append(row);
}
showResult();
try {
  const [code, weights, samples] = await Promise.all([
    bytes("net/network.wasm"),
    bytes("net/weights.bin"),
    get("samples.json").then((answer) => answer.json()),
  ]);
  network = await Network.open(code, weights);
  samples.forEach(addSample);
  element("about").textContent =
    `It takes ${kilobytes(code)} of code and ${kilobytes(weights)} of weights.`;
  showResult();
  document.documentElement.dataset.ready = "true";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    [...element("samples").children].forEach((button, digit) => show(button.firstChild, samples[digit]));
    clear();
  });
} catch (problem) {
  element("about").textContent = "It could not be loaded.";
  element("problem").textContent = `The network cannot be loaded. ${problem.message}`;
  element("problem").hidden = false;
}
