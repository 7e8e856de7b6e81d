"use strict";
// Joins charts and tables. What is lit is a set of calls; a kernel stands for all its calls.
const calls = JSON.parse(document.getElementById("calls").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const marks = all(".mark"), kernels = all("#kernels tbody"), blocks = all("#blocks tbody tr"), tip = document.getElementById("tip");
const callsOf = (kernel) => calls.flatMap((call, number) => (call.kernel === kernel ? [number] : []));
const callsAt = (element) =>
  element.dataset.call !== undefined ? [Number(element.dataset.call)]
    : element.dataset.kernel !== undefined ? callsOf(Number(element.dataset.kernel))
      : element.dataset.calls.split(" ").filter(Boolean).map(Number);
let chosen = null;

function light(element) {
  const source = element ?? chosen;
  const lit = new Set(source ? callsAt(source) : []);
  // Pointing at one call lights all calls of its kernel, and marks the one.
  const whole = source?.dataset.call !== undefined ? callsOf(calls[Number(source.dataset.call)].kernel) : [...lit];
  const lights = new Set(whole), kernelsLit = new Set(whole.map((number) => calls[number].kernel));
  for (const mark of marks) {
    const own = mark.dataset.call !== undefined;
    mark.classList.toggle("hot", own ? lights.has(Number(mark.dataset.call)) : kernelsLit.has(Number(mark.dataset.kernel)));
    mark.classList.toggle("now", own && lit.size === 1 && lit.has(Number(mark.dataset.call)));
  }
  for (const body of kernels) body.classList.toggle("hot", kernelsLit.has(Number(body.dataset.kernel)));
  document.body.classList.toggle("lit", source !== null && source !== undefined);
}

function choose(element) {
  const again = chosen === element;
  for (const other of [...kernels, ...blocks]) {
    other.classList.remove("chosen");
    other.querySelector("[aria-controls]")?.setAttribute("aria-expanded", "false");
  }
  chosen = again ? null : element;
  chosen?.classList.add("chosen");
  chosen?.querySelector("[aria-controls]")?.setAttribute("aria-expanded", "true");
  light(null);
}

// ---- what is pointed at

function say(mark) {
  const own = mark.dataset.call !== undefined;
  const kernel = Number(mark.dataset.kernel), numbers = callsOf(kernel), call = calls[own ? Number(mark.dataset.call) : numbers[0]];
  const body = kernels.find((one) => Number(one.dataset.kernel) === kernel);
  const text = (row, selector) => row.querySelector(selector).textContent.trim();
  tip.replaceChildren();
  const add = (words, kind) => {
    const line = document.createElement(kind === "title" ? "b" : "span");
    line.textContent = words;
    if (kind) line.className = kind;
    if (words) tip.append(line);
  };
  add(call.operators, "title");
  const several = numbers.length > 1 ? ` in ${numbers.length} calls` : "";
  add(own ? `${call.time}, ideal ${call.ideal}: ${call.share} of the roof`
    : `${text(body, "td:nth-child(3)")}${several}, ideal ${text(body, "td:nth-child(5)")}: ${text(body, ".share")} of the roof`);
  add(own || numbers.length === 1 ? `${call.path} ${call.place}` : `first in ${call.path} ${call.place}`);
  add(`${own ? "" : "a call: "}${call.work}`, "quiet");
  add(call.shapes, "quiet");
  add(call.form, "quiet");
  tip.hidden = false;
}

function place(x, y) {
  const box = tip.getBoundingClientRect(), width = document.documentElement.clientWidth, height = window.innerHeight;
  const left = x + 14 + box.width > width ? x - 14 - box.width : x + 14;
  tip.style.left = `${Math.max(6, Math.min(left, width - box.width - 6))}px`;
  tip.style.top = `${y + 16 + box.height > height ? Math.max(6, y - box.height - 12) : y + 16}px`;
}

const clear = () => {
  tip.hidden = true;
  light(null);
};
for (const chart of all(".chart[tabindex]")) {
  const own = all(".mark", chart), across = (mark) => Number(mark.getAttribute("cx")?.replace("%", "") ?? 0);
  const order = own.every((mark) => mark.tagName === "circle") ? [...own].sort((a, b) => across(a) - across(b)) : own;
  let at = -1;
  chart.addEventListener("pointermove", (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return clear();
    at = order.indexOf(mark);
    light(mark);
    say(mark);
    place(event.clientX, event.clientY);
  });
  chart.addEventListener("pointerleave", clear);
  chart.addEventListener("blur", clear);
  chart.addEventListener("click", (event) => {
    const mark = event.target.closest(".mark");
    if (mark) choose(kernels.find((body) => body.dataset.kernel === mark.dataset.kernel));
  });
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") return clear();
    if (event.key === "Enter" && order[at]) return choose(kernels.find((body) => body.dataset.kernel === order[at].dataset.kernel));
    if (step === undefined || !order.length) return;
    event.preventDefault();
    at = Math.max(0, Math.min(order.length - 1, at < 0 ? 0 : at + step));
    light(order[at]);
    say(order[at]);
    const box = order[at].getBoundingClientRect();
    place(box.left + box.width / 2, box.top);
  });
}
for (const row of [...kernels, ...blocks]) {
  row.addEventListener("pointerenter", () => light(row));
  row.addEventListener("pointerleave", () => light(null));
}
for (const body of kernels) {
  body.querySelector(".row").addEventListener("click", () => choose(body));
  for (const item of all("li[data-call]", body)) {
    item.addEventListener("pointerenter", () => light(item));
    item.addEventListener("pointerleave", () => light(body));
  }
}

// ---- the table of kernels

const table = document.querySelector("table.sorts"), headings = all("th[data-sort]", table);
for (const heading of headings) {
  heading.querySelector("button").addEventListener("click", () => {
    const now = heading.getAttribute("aria-sort"), key = heading.dataset.sort, words = key === "name";
    const up = now ? now === "descending" : words;
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => (words ? a.dataset.name.localeCompare(b.dataset.name) : Number(a.dataset[key]) - Number(b.dataset[key]));
    table.append(...[...kernels].sort((a, b) => (up ? order(a, b) : order(b, a))));
  });
}
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const body of kernels) {
    const text = body.textContent.toLowerCase();
    body.hidden = !words.every((word) => text.includes(word));
    shown += body.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = `${shown} of ${kernels.length}`;
});

// ---- paper: it has nothing to press

addEventListener("beforeprint", () => all("details").forEach((each) => (each.open = true)));

// ---- the tree of blocks

function refold() {
  let shut = Infinity;
  for (const row of blocks) {
    const depth = Number(row.dataset.depth);
    if (depth <= shut) shut = Infinity;
    row.classList.toggle("folded", depth > shut);
    if (shut === Infinity && row.querySelector('.fold[aria-expanded="false"]')) shut = depth;
  }
}
for (const row of blocks) {
  row.querySelector(".fold")?.addEventListener("click", (event) => {
    const button = event.currentTarget;
    button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") === "false"));
    refold();
    event.stopPropagation();
  });
  row.addEventListener("click", () => choose(row));
}
