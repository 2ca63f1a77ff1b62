// ---- the words of a translation, what they come from, and how sure the model is

const data = JSON.parse(at("data").textContent);

let shown = null; // {source, text, words, places} that is on the page
let pinned = null; // {word} or {place}: a word of the translation, or a place of the source, that was clicked
let pointed = null; // the same, under the pointer or the keyboard's focus: goes before what is pinned

/** How many units of a JavaScript string come before each character, as the server counts them, and at the end. */
function unitsBefore(text) {
  const before = [0];
  for (const character of text) before.push(before.at(-1) + character.length);
  return before;
}

/** The answer for `source` with places in units: its words in their order, and the pieces of the source that they come from. */
function placed(source, answer) {
  const inSource = unitsBefore(source), inText = unitsBefore(answer.text);
  const words = answer.words.map((word) => ({
    start: inText[word.start],
    end: inText[word.end],
    source: word.source.map(([start, end]) => [inSource[start], inSource[end]]),
    probability: word.probability,
  }));
  const edges = [...new Set(words.flatMap((word) => word.source.flat()))].sort((a, b) => a - b);
  const places = edges.slice(1).map((end, i) => ({ start: edges[i], end, words: [] }));
  const numbers = new Map(edges.map((edge, i) => [edge, i]));
  words.forEach((word, index) => {
    for (const [start, end] of word.source) {
      for (const place of places.slice(numbers.get(start), numbers.get(end))) place.words.push(index);
    }
  });
  return { ...answer, source, words, places: places.filter((place) => place.words.length) };
}

const comesFrom = (word, place) => word.source.some(([start, end]) => start <= place.start && place.end <= end);

const sureness = ({ probability: p }) => (p >= data.sure ? "sure" : p >= data.lessSure ? "less sure" : "unsure");
const percent = (share) => `${Math.round(100 * share)}%`;

/** Shows an answer with its words, or, without any, only a text; `null` takes all away. */
function showAnswer(answer) {
  forget();
  shown = answer;
  at("translation").classList.remove("old");
  at("translation").replaceChildren(...pieces(answer?.text ?? "", answer?.words ?? [], wordElement));
  drawMirror(answer?.places ?? []);
  const first = at("translation").querySelector("[data-word]");
  if (first) first.tabIndex = 0;
  at("legend").hidden = !answer?.words.length;
  paint();
}

/** The text has changed: the translation stays until the next one comes, but nothing is linked with it. */
function outdate() {
  forget();
  at("translation").classList.add("old");
  drawMirror([]);
  paint();
  if (at("translation").textContent) at("readout").textContent = "\u00a0"; // the place that a sentence will need
}

function forget() {
  shown = pinned = pointed = null;
}

/** What lies under the text: the text itself, and with it the places that can be marked. */
function drawMirror(places) {
  const element = (text, _, index) => {
    const span = make("span", text);
    span.dataset.place = index;
    return span;
  };
  at("mirror").replaceChildren(...pieces(at("text").value, places, element), "\u200b"); // an empty last line has its height
}

/** A text as nodes: an element for each of its spans, in their order, and what is between them as it is. */
function pieces(text, spans, element) {
  const nodes = [];
  let end = 0;
  spans.forEach((span, index) => {
    if (span.start < end) return;
    nodes.push(text.slice(end, span.start), element(text.slice(span.start, span.end), span, index));
    end = span.end;
  });
  return [...nodes, text.slice(end)];
}

function wordElement(text, word, index) {
  const kind = sureness(word);
  const element = make("span", text, { className: kind.replace(" ", "-"), tabIndex: -1, role: "button" });
  if (kind !== "sure") element.ariaLabel = `${text}, ${kind}`;
  element.dataset.word = index;
  return element;
}

function paint() {
  const chosen = pointed ?? pinned;
  const word = shown?.words[chosen?.word], place = shown?.places[chosen?.place];
  for (const element of at("translation").querySelectorAll("[data-word]")) {
    const index = Number(element.dataset.word);
    element.classList.toggle("linked", index === chosen?.word || Boolean(place?.words.includes(index)));
    element.ariaPressed = String(index === pinned?.word);
  }
  for (const element of at("mirror").querySelectorAll("[data-place]")) {
    const index = Number(element.dataset.place);
    element.classList.toggle("linked", index === chosen?.place || Boolean(word && comesFrom(word, shown.places[index])));
  }
  at("readout").textContent = word ? ofWord(word) : place ? ofPlace(place) : ofAll();
}

const quoted = (text, spans) => spans.map(([start, end]) => `“${text.slice(start, end)}”`).join(", ");

function ofWord(word) {
  const kind = sureness(word);
  const known = ` comes from ${quoted(shown.source, word.source)}`;
  const origin = word.source.length ? known : ": it is not known what it comes from";
  return `${quoted(shown.text, [[word.start, word.end]])}${origin}. The model is ${kind}: ${percent(word.probability)}.`;
}

function ofPlace(place) {
  const words = place.words.map((index) => [shown.words[index].start, shown.words[index].end]);
  return `${quoted(shown.source, [[place.start, place.end]])} became ${quoted(shown.text, words)}.`;
}

function ofAll() {
  if (!shown?.text) return "";
  const count = (kind) => shown.words.filter((word) => sureness(word) === kind).length;
  const unknown = "how sure the model is of it";
  const counted = ["less sure", "unsure"].filter(count).map((kind) => `${count(kind)} ${kind}`).join(", ");
  const sentences = [
    shown.confidence !== null && `Confidence in this translation: ${percent(shown.confidence)}.`,
    shown.words.length && `Words: ${shown.words.length}, ${counted ? `of which ${counted}` : "all sure"}.`,
    shown.words.length && `Point at a word, or tap it, to see ${shown.places.length ? "what it comes from" : unknown}.`,
  ];
  return sentences.filter(Boolean).join(" ");
}

// ---- what is pointed at

const wordOf = ({ target }) => target.dataset?.word === undefined ? null : { word: Number(target.dataset.word) };

function point(place) {
  if (place?.word === pointed?.word && place?.place === pointed?.place) return;
  pointed = place;
  paint();
}

function pin(place) {
  const again = place?.word === pinned?.word && place?.place === pinned?.place;
  pinned = again ? null : place;
  paint();
}

/** The place of the source whose mirrored text has this point of the window in it. */
function placeUnder(x, y) {
  for (const element of at("mirror").querySelectorAll("[data-place]")) {
    for (const { left, right, top, bottom } of element.getClientRects()) {
      if (left <= x && x < right && top <= y && y < bottom) return { place: Number(element.dataset.place) };
    }
  }
  return null;
}

/** The place of the source that the caret is in, or behind. */
function placeAtCaret() {
  const { selectionStart, selectionEnd } = at("text");
  if (selectionStart !== selectionEnd) return null;
  const index = shown?.places.findIndex(({ start, end }) => start <= selectionStart && selectionStart <= end) ?? -1;
  return index < 0 ? null : { place: index };
}

const words = at("translation"), text = at("text");
// A finger points by its click alone: its hover would stay behind. So would the focus of a mouse click.
words.addEventListener("pointerover", (event) => event.pointerType !== "touch" && point(wordOf(event)));
words.addEventListener("pointerleave", () => point(null));
words.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && point(wordOf(event)));
words.addEventListener("focusout", () => point(null));
words.addEventListener("click", (event) => {
  const place = wordOf(event);
  if (place && getSelection().isCollapsed) pin(place);
});
words.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    pin(wordOf(event));
  }
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (step) moveFocus(event, step);
});

/** One word is in the order of the Tab key; arrows move among them. */
function moveFocus(event, step) {
  event.preventDefault();
  const all = [...words.querySelectorAll("[data-word]")];
  const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(event.target) + step))];
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

text.addEventListener("pointermove", ({ pointerType, clientX, clientY }) => {
  if (pointerType !== "touch") point(placeUnder(clientX, clientY));
});
text.addEventListener("pointerleave", () => point(null));
text.addEventListener("click", () => shown?.places.length && (pinned = placeAtCaret(), paint()));
text.addEventListener("keyup", ({ key }) => /^(Arrow|Home|End|Page)/.test(key) && (pinned = placeAtCaret(), paint()));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pinned = pointed = null;
  paint();
});

/** The legend's shades are those of the words. */
function drawLegend() {
  const [sure, lessSure] = [data.sure, data.lessSure].map(percent);
  const kinds = [["sure", `${sure} and more`], ["less sure", `${lessSure} to ${sure}`], ["unsure", `below ${lessSure}`]];
  at("legend").replaceChildren("The model's probability of a word:", ...kinds.map(([kind, range]) => {
    const item = make("span", "");
    item.append(make("i", kind, { className: kind.replace(" ", "-") }), ` ${range}`);
    return item;
  }));
}
drawLegend();
