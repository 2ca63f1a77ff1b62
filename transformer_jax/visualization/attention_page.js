"use strict";
const DEEP = 0.65; // the shade from which text takes its other colour
const UNITS = [["words", "words"], ["pieces", "pieces of words"]];
const at = (id) => document.getElementById(id);
const data = JSON.parse(at("data").textContent);
const kinds = Object.keys(data.sides);

let chosen; // {kind, unit, layer, head, query, key} as in location.hash; query and key, from 0 or null, are what is pinned
let pointed = null; // {query, key} under the pointer or the keyboard's focus: goes before what is pinned
let shown; // {queries, keys, shares[query][key]} of what is chosen

// ---- what is chosen

const within = (value, count) => (/^\d+$/.test(value) && Number(value) < count ? Number(value) : null);

/** Chooses what the page has of a wish. */
function choose(wish) {
  const kind = kinds.includes(wish.kind) ? wish.kind : kinds[0];
  const unit = wish.unit === "pieces" ? "pieces" : "words";
  const { queries, keys, thousandths } = data.maps[unit][kind];
  const layer = within(wish.layer, thousandths.length + 1) ?? 0;
  const head = within(wish.head, thousandths[0].length + 1) ?? 0;
  chosen = { kind, unit, layer, head, query: within(wish.query, queries.length), key: within(wish.key, keys.length) };
  shown = { queries, keys, shares: meanShares(queries, keys, thousandths, layer, head) };
}

/** The mean over one layer or all (0), one head or all; as AttentionMap.mean. */
function meanShares(queries, keys, thousandths, layer, head) {
  const layers = layer ? [thousandths[layer - 1]] : thousandths;
  const maps = layers.flatMap((heads) => (head ? [heads[head - 1]] : heads));
  const mean = (q, k) => maps.reduce((sum, map) => sum + map[q][k], 0) / maps.length / 1000;
  return queries.map((_, q) => keys.map((_, k) => mean(q, k)));
}

function openLink() {
  choose({ ...data.start, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) });
  draw();
}

/** The address becomes a link to what is seen. It replaces the old one: going back should leave the page. */
function keepLink() {
  history.replaceState(null, "", "#" + new URLSearchParams(Object.entries(chosen).filter(([, value]) => value !== null)));
}

function pin({ query, key }) {
  const again = query === chosen.query && key === chosen.key;
  chosen = { ...chosen, query: again ? null : query, key: again ? null : key };
  paint();
  keepLink();
}

// ---- what changes with the choice

/** Text only ever goes in as text: labels may hold anything, markup too. */
function make(tag, text, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.textContent = text;
  return element;
}

const nameOf = (label) => label.trim() || "␣";
const isSpecial = (label) => label === "(start)" || label === "(end)";
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;

/** By the square root, so that 5% can be told from nothing; the same for all maps, so that heads can be compared. */
function shade(element, share) {
  const depth = Math.sqrt(Math.min(share, 1));
  element.style.setProperty("--shade", depth.toFixed(3));
  element.classList.toggle("deep", depth >= DEEP);
}

function draw() {
  pointed = null;
  drawControls();
  drawHeads();
  drawTokens("queries", "query");
  drawTokens("keys", "key");
  drawTable();
  const predicting = "Each row has the weights with which that part of the translation was predicted. ";
  const merging = "The weight of a word is the sum of its pieces' weights; its row is the mean of its pieces' rows.";
  at("note").textContent = (chosen.kind === "encoder" ? "" : predicting) + (chosen.unit === "words" ? merging : "");
  paint();
  markEdges();
}

/** A small map of every head, a row for each layer, with the mean first: the mean of all heads hides what single ones do. */
function drawHeads() {
  const { queries, keys, thousandths } = data.maps[chosen.unit][chosen.kind];
  const [layers, heads] = [thousandths.length, thousandths[0].length];
  at("heads").hidden = layers * heads === 1;
  const found = `${chosen.kind} ${chosen.unit}`;
  if (at("layers").dataset.maps !== found) {
    at("layers").dataset.maps = found;
    const rows = Array.from({ length: layers + 1 }, (_, layer) => {
      const thumbs = Array.from({ length: layer ? heads + 1 : 1 }, (_, head) => (
        thumb(layer, head, meanShares(queries, keys, thousandths, layer, head))
      ));
      const row = make("div", "", { className: "edges" });
      row.append(make("span", layer ? `layer ${layer}` : "all layers"), make("div", "", { className: "scroll" }));
      row.lastChild.append(...thumbs);
      return row;
    });
    at("layers").replaceChildren(...rows);
  }
  for (const button of at("layers").querySelectorAll("button")) {
    const { layer, head } = button.dataset;
    button.setAttribute("aria-current", Number(layer) === chosen.layer && Number(head) === chosen.head);
  }
}

/** A button with a picture of a map, a dot for each share. */
function thumb(layer, head, shares) {
  const button = make("button", "", { type: "button", className: "thumb" });
  Object.assign(button.dataset, { layer, head });
  button.setAttribute("aria-label", `${layer ? `layer ${layer}` : "all layers"}, ${head ? `head ${head}` : "mean of the heads"}`);
  const canvas = make("canvas", "", { width: shares[0].length, height: shares.length });
  const picture = canvas.getContext("2d");
  picture.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--all");
  shares.forEach((row, query) => row.forEach((share, key) => {
    picture.globalAlpha = Math.sqrt(Math.min(share, 1));
    picture.fillRect(key, query, 1, 1);
  }));
  button.append(canvas, make("small", head || "mean"));
  return button;
}

function drawControls() {
  const { thousandths } = data.maps[chosen.unit][chosen.kind];
  const numbers = (count) => [[0, "mean of all"], ...Array.from({ length: count }, (_, i) => [i + 1, i + 1])];
  const options = {
    kind: kinds.map((kind) => [kind, data.sides[kind].join(" → ")]),
    layer: numbers(thousandths.length),
    head: numbers(thousandths[0].length),
    unit: UNITS,
  };
  for (const [name, pairs] of Object.entries(options)) {
    const select = at("controls").elements[name];
    select.replaceChildren(...pairs.map(([value, text]) => make("option", text, { value })));
    select.value = chosen[name];
  }
  const [querySide, keySide] = data.sides[chosen.kind];
  at("query-side").textContent = `queries: ${querySide}`;
  at("key-side").textContent = `keys: ${keySide}`;
}

/** The labels in a row that wraps. A piece without a space before it goes on with the last one's word. */
function drawTokens(id, side) {
  at(id).replaceChildren();
  shown[id].forEach((label, index) => {
    const goesOn = chosen.unit === "pieces" && index > 0 && !label.startsWith(" ") && !isSpecial(label);
    const word = goesOn ? at(id).lastChild : at(id).appendChild(make("span", ""));
    const token = word.appendChild(make("button", nameOf(label), { type: "button" }));
    token.classList.toggle("special", isSpecial(label));
    token.dataset[side] = index;
    token.append(make("small", ""));
  });
}

function drawTable() {
  const top = shown.keys.map((label, key) => {
    const cell = make("th", "", { scope: "col" });
    cell.dataset.key = key;
    cell.append(make("span", nameOf(label)));
    return cell;
  });
  const rows = shown.queries.map((label, query) => {
    const row = make("tr", "");
    row.append(make("th", nameOf(label), { scope: "row" }));
    row.firstChild.dataset.query = query;
    shown.shares[query].forEach((share, key) => {
      const cell = row.appendChild(make("td", percent(share)));
      Object.assign(cell.dataset, { query, key });
      shade(cell, share);
    });
    return row;
  });
  at("head").replaceChildren(make("td", ""), ...top);
  at("body").replaceChildren(...rows);
}

// ---- what follows the pointer: tokens, labels and cells say by data-query and data-key where they belong

function paint() {
  const { query, key } = pointed ?? chosen;
  const row = query === null ? null : shown.shares[query];
  const column = key === null ? null : shown.shares.map((shares) => shares[key]);
  paintTokens("keys", "key", row);
  paintTokens("queries", "query", row ? null : column);
  document.querySelectorAll(".row, .column").forEach((element) => element.classList.remove("row", "column"));
  document.querySelectorAll(`[data-query="${query}"]`).forEach((element) => element.classList.add("row"));
  document.querySelectorAll(`[data-key="${key}"]`).forEach((element) => element.classList.add("column"));
  at("readout").textContent = sentence(query, key, row, column);
}

/** Shares on the tokens of one side; null takes them away. */
function paintTokens(id, side, shares) {
  const most = shares && Math.max(...shares);
  at(id).querySelectorAll("button").forEach((token, index) => {
    shade(token, shares ? shares[index] : 0);
    token.lastChild.textContent = shares ? percent(shares[index]) : "";
    token.classList.toggle("most", shares !== null && shares[index] === most);
    token.setAttribute("aria-pressed", chosen[side] === index);
  });
}

function sentence(query, key, row, column) {
  if (!row && !column) return "Point at a word to see its weights. A click or tap keeps it; another, or Escape, releases it.";
  const most = (shares) => shares.indexOf(Math.max(...shares));
  const q = query ?? most(column), k = key ?? most(row);
  const [from, to] = [shown.queries[q], shown.keys[k]].map((label) => `“${nameOf(label)}”`);
  const share = percent(shown.shares[q][k], 1);
  if (row && column) return `${from} attends to ${to} with weight ${share}.`;
  return row ? `${from} attends most to ${to}: ${share}.` : `${to} has its largest weight from ${from}: ${share}.`;
}

/** The {query, key} of what an event happened to, or null. */
function placeOf({ target }) {
  const element = target.closest("[data-query], [data-key]");
  return element && { query: within(element.dataset.query, Infinity), key: within(element.dataset.key, Infinity) };
}

function point(place) {
  pointed = place;
  paint();
}

// A finger points by its click alone: its hover would stay behind. So would the focus of a mouse click.
at("main").addEventListener("pointerover", (event) => event.pointerType !== "touch" && point(placeOf(event)));
at("main").addEventListener("pointerleave", () => point(null));
at("main").addEventListener("focusin", (event) => event.target.matches(":focus-visible") && point(placeOf(event)));
at("main").addEventListener("focusout", () => point(null));
at("main").addEventListener("click", (event) => {
  const place = placeOf(event);
  if (place) pin(place);
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pointed = null;
  pin({ query: null, key: null });
});
at("controls").addEventListener("change", (event) => {
  const wish = { ...chosen, ...Object.fromEntries(new FormData(at("controls"))) };
  // Between other words, a number means another one.
  choose(["kind", "unit"].includes(event.target.name) ? { ...wish, query: null, key: null } : wish);
  draw();
  keepLink();
});
at("layers").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  choose({ ...chosen, layer: button.dataset.layer, head: button.dataset.head });
  draw();
  keepLink();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  delete at("layers").dataset.maps; // its colours are in the pictures
  drawHeads();
});
addEventListener("hashchange", openLink);

at("source").textContent = data.source;
at("translation").textContent = data.translation;
for (const share of [0, 0.05, 0.25, 0.5, 1]) shade(at("legend").appendChild(make("i", percent(share))), share);
openLink();
