// What the page does beyond links and forms: keys, lines between the columns, choices that act at once.
// Everything here is an addition: without it every view still opens, filters and pages.

const page = document.documentElement;
page.classList.add("js");

// A choice acts at once; a field does on Enter, as forms do.
for (const choice of document.querySelectorAll("[data-submit]")) {
  choice.addEventListener("change", () => choice.form.requestSubmit());
}
// A form leaves out what is empty, so that addresses stay short.
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

// Lines between the two cards of one example.
const SVG = "http://www.w3.org/2000/svg";
function drawTies() {
  for (const columns of document.querySelectorAll(".columns")) {
    columns.querySelector(".ties")?.remove();
    const [left, right] = columns.querySelectorAll(".column");
    if (!left || !right || !seen(left) || left.offsetTop !== right.offsetTop) continue;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "ties");
    svg.setAttribute("aria-hidden", "true");
    for (const card of left.querySelectorAll("article[data-example]")) {
      const other = right.querySelector(`article[data-example="${card.dataset.example}"]`);
      if (!other) continue;
      const x1 = left.offsetLeft + left.offsetWidth, x2 = right.offsetLeft;
      const y1 = middle(card, columns), y2 = middle(other, columns), bend = (x2 - x1) / 2;
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`);
      path.dataset.example = card.dataset.example;
      svg.append(path);
    }
    columns.append(svg);
  }
}
function middle(card, columns) {
  const box = card.getBoundingClientRect();
  return box.top - columns.getBoundingClientRect().top + Math.min(box.height / 2, 34);
}
function light(example, on) {
  for (const part of document.querySelectorAll(`[data-example="${example}"]`)) part.classList.toggle("lit", on);
}
for (const card of document.querySelectorAll("article[data-example]")) {
  for (const [event, on] of [["mouseenter", true], ["mouseleave", false], ["focusin", true], ["focusout", false]]) {
    card.addEventListener(event, () => light(card.dataset.example, on));
  }
}
if (document.querySelector(".columns")) {
  drawTies();
  new ResizeObserver(drawTies).observe(document.querySelector("main"));
  document.fonts?.ready.then(drawTies);
  window.addEventListener("hashchange", drawTies);
}

// In a file there is no server to search: what is typed leaves the rows that have it.
for (const field of document.querySelectorAll("[data-filter]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of document.querySelectorAll(".queries tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

// Keys.
const KEYS = {
  j: ["next query or card", () => step(1)],
  k: ["the one before", () => step(-1)],
  h: ["left column", () => across("a")],
  l: ["right column", () => across("b")],
  n: ["next query, next page", () => follow('[rel="next"]')],
  p: ["previous query, previous page", () => follow('[rel="prev"]')],
  u: ["all queries", () => follow('[data-key="u"]')],
  o: ["opponents", () => document.querySelector('[name="opponents"]')?.click()],
  "/": ["search", () => [...document.querySelectorAll('[type="search"]')].find(seen)?.focus()],
  "?": ["these keys", () => help()],
};
function follow(selector) {
  [...document.querySelectorAll(`a${selector}`)].find(seen)?.click();
}
function step(by) {
  const links = [...document.querySelectorAll(".queries th a")].filter(seen);
  if (links.length) return move(links, by);
  const column = document.activeElement.closest?.(".column") ?? [...document.querySelectorAll(".column")].find(seen);
  if (column) move([...document.querySelectorAll(`.column.${side(column)} article`)].filter(seen), by);
}
function seen(part) {
  return part.offsetParent !== null;
}
function side(column) {
  return column.classList.contains("side-b") ? "side-b" : "side-a";
}
function move(parts, by) {
  const now = parts.indexOf(document.activeElement);
  const next = parts[now < 0 ? (by > 0 ? 0 : parts.length - 1) : Math.min(Math.max(now + by, 0), parts.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}
function across(to) {
  const card = document.activeElement.closest?.("article");
  const tied = card?.dataset.example
    && card.closest(".columns").querySelector(`.side-${to} [data-example="${card.dataset.example}"]`);
  const place = card ? [...card.closest("ol").querySelectorAll("article")].indexOf(card) : 0;
  const section = card?.closest(".columns") ?? document;
  const cards = section.querySelectorAll(`.column.side-${to} article`);
  (tied || cards[Math.min(place, cards.length - 1)])?.focus();
}
function help() {
  let dialog = document.querySelector("dialog.keys");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "keys";
    dialog.setAttribute("aria-label", "Keys");
    const list = document.createElement("dl");
    for (const [key, [says]] of Object.entries(KEYS)) {
      const term = document.createElement("dt"), what = document.createElement("dd");
      const shown = document.createElement("kbd");
      shown.textContent = key;
      term.append(shown);
      what.textContent = says;
      list.append(term, what);
    }
    const form = document.createElement("form"), close = document.createElement("button");
    form.method = "dialog";
    close.textContent = "Close";
    form.append(close);
    dialog.append(list, form);
    document.body.append(dialog);
  }
  dialog.showModal();
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog[open]")) return;
  const key = KEYS[event.key];
  if (key) {
    event.preventDefault();
    key[1]();
  }
});

// While another process writes the store or the model is at work, look again, unless something else is asked for.
const waiting = document.querySelector("[data-retry]");
if (waiting) {
  const again = setTimeout(() => location.reload(), Number(waiting.dataset.retry) * 1000);
  document.addEventListener("submit", () => clearTimeout(again));
}
