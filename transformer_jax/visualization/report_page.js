"use strict";
const PAGE = 100; // sentences that are added at a time
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const controls = at("controls").elements;
let report; // what is shown
let shown = []; // places of its sentences, in their order, after the filters
let drawn = 0; // how many of these are in the table

/** Text only ever goes in as text: sentences may hold anything, markup too. */
function make(tag, content = [], properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...[content].flat());
  return element;
}

function draw(tag, attributes, content = []) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...[content].flat());
  return element;
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const range = (interval) => (interval ? `${interval[0].toFixed(2)} to ${interval[1].toFixed(2)}` : "");

// ---- the scores of all reports

function drawScores() {
  document.title = at("title").textContent = `Evaluation of ${data.title}`;
  const metrics = data.reports[0]?.scores.map((score) => score.metric) ?? [];
  const head = ["test set and checkpoint", "sentences", ...metrics, "exactly right"].map((text) => make("th", text));
  const rows = data.reports.flatMap((each) => [scoreRow(each), ...(each.other ? [differenceRow(each, metrics)] : [])]);
  at("scores").replaceChildren(make("thead", make("tr", head)), make("tbody", rows));
  const all = data.reports.flatMap((each) => [...each.scores, ...each.differences]);
  const lines = new Set(all.map((each) => `${each.metric} ${each.signature}`));
  at("signatures").replaceChildren(...[...lines].map((line) => make("div", make("code", line))));
  at("meaning").textContent = [...meanings(all)].join(" ");
  markEdges();
}

/** What the small figures of the table are, in sentences. */
function* meanings(all) {
  if (all.some((each) => each.interval)) yield "Below a score is its 95% confidence interval.";
  const few = data.reports.find((each) => each.noInterval);
  if (few) yield `No interval: ${few.noInterval}.`;
  if (all.some((each) => "p_value" in each)) {
    yield "Below a difference is the probability of one as large between equally good systems (p).";
  }
  yield "Of TER less is better.";
}

/** The scores under each noise beside those without, where they were asked for. */
function drawRobustness() {
  const rows = data.reports.filter((each) => each.robustness);
  at("robustness").hidden = !rows.length;
  if (!rows.length) return;
  const names = ["BLEU", "difference", "chrF2", "looping", "lines changed", "references"];
  const head = ["noise", ...names].map((text) => make("th", text));
  const body = rows.map(({ name, robustness: row }) => {
    const figures = [row.bleu.toFixed(2), signed(row.difference), row.chrf.toFixed(2), row.looping, row.changed, row.references];
    return make("tr", [make("td", [row.noise, make("small", name)]), ...figures.map((text, i) => cell(names[i], String(text)))]);
  });
  at("robustness").replaceChildren(make("caption", "Robustness"), make("thead", make("tr", head)), make("tbody", body));
  markEdges();
}

/** A cell of the table of scores; `name` is the head of its column, for phones. */
function cell(name, content) {
  const element = make("td", content);
  element.dataset.name = name;
  return element;
}

const small = (text) => (text ? [make("small", text)] : []);

function scoreRow(each) {
  const cells = each.scores.map(({ metric, value, interval }) => cell(metric, [value.toFixed(2), ...small(range(interval))]));
  const name = make("td", [each.name, make("small", each.search)]);
  const exact = cell("exactly right", `${(100 * each.exact).toFixed(1)}%`);
  return make("tr", [name, cell("sentences", String(each.sentences)), ...cells, exact]);
}

function differenceRow(each, metrics) {
  const cells = metrics.map((metric) => {
    const found = each.differences.find((difference) => difference.metric === metric);
    const figures = found && [signed(found.difference), make("small", `p = ${found.p_value.toFixed(4)}`)];
    return cell(metric, figures ?? []);
  });
  return make("tr", [make("td", ["difference", make("small", `from ${each.other}`)]), make("td"), ...cells, make("td")]);
}

// ---- pictures

const narrow = matchMedia("(max-width: 32rem)"); // a phone: pictures of fewer units, so that their text stays as large

/** Bars of {label, value, interval, count}, with their values above them. */
function chart(title, bars, unit) {
  const [width, height, left, top, bottom] = [narrow.matches ? 340 : 480, 240, 34, 22, 38];
  const most = Math.max(...bars.map((bar) => Math.max(bar.value, bar.interval?.[1] ?? 0, bar.mark ?? 0)), 1e-9);
  const power = 10 ** Math.floor(Math.log10(most / 5));
  const step = power * [1, 2, 2.5, 5, 10].find((size) => most / (size * power) < 5.001);
  const end = Math.ceil(most / step - 0.001) * step;
  const y = (value) => top + (height - top - bottom) * (1 - value / end);
  const pitch = (width - left) / bars.length;
  const parts = [], lines = [];
  for (let value = 0; value < end + step / 2; value += step) {
    lines.push(y(value));
    parts.push(draw("line", { x1: left, x2: width, y1: y(value), y2: y(value), class: "grid" }));
    parts.push(draw("text", { x: left - 5, y: y(value) + 4, class: "axis quiet" }, String(Number(value.toPrecision(3)))));
  }
  bars.forEach(({ label, value, interval, count, above, mark }, i) => {
    const [x, middle, wide] = [left + pitch * (i + 0.12), left + pitch * (i + 0.5), pitch * 0.76];
    parts.push(draw("rect", { x, y: y(value), width: wide, height: y(0) - y(value) }));
    if (interval) {
      const [low, high] = [Math.max(interval[0], 0), interval[1]].map(y);
      const d = `M${middle} ${low}V${high}M${middle - 4} ${low}h8M${middle - 4} ${high}h8`;
      parts.push(draw("path", { d, class: "interval" }));
    }
    if (mark !== undefined) parts.push(draw("path", { d: `M${x - 3} ${y(mark)}h${wide + 6}`, class: "interval" }));
    parts.push(draw("text", { x: middle, y: offLines(Math.min(y(value), y(Math.max(interval?.[1] ?? 0, mark ?? 0))) - 5, lines) }, above));
    parts.push(draw("text", { x: middle, y: height - bottom + 15 }, label));
    if (count) parts.push(draw("text", { x: middle, y: height - bottom + 30, class: "quiet" }, count));
  });
  const told = bars.map(({ label, above, count }) => `${label}: ${above}${count ? ` (${count})` : ""}`).join("; ");
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}. ${told}` }, parts);
  return make("figure", [make("figcaption", [make("b", title), ` ${unit}`]), picture]);
}

/** The baseline of a label, moved up where a line of the grid would go through it. */
function offLines(baseline, lines) {
  const crossed = lines.find((line) => baseline - 11 < line && line < baseline + 3);
  return crossed === undefined ? baseline : crossed - 4;
}

function groups(found) {
  return found.map(({ label, bleu, interval, sentences }) => (
    { label: label.replace(/(\d) to /, "$1–"), value: bleu, interval, count: `n=${sentences}`, above: bleu.toFixed(1) }
  ));
}

function histogram(values) {
  const bars = Array.from({ length: 10 }, (_, i) => ({ label: i === 9 && !narrow.matches ? "90–100" : `${10 * i}–`, value: 0 }));
  for (const value of values) bars[Math.min(9, Math.floor(value / 10))].value += 1;
  return bars.map((bar) => ({ ...bar, above: String(bar.value) }));
}

/** What a confidence says against what it should: a line at the mean confidence of each bar's sentences. */
function reliabilityChart({ bins, feature, rank_correlation, calibration_error }) {
  const bars = bins.map(({ low, sentences, mean_confidence, mean_chrf }) => ({
    label: `${low.toFixed(1)}–`, value: mean_chrf, mark: mean_confidence, count: `n=${sentences}`, above: mean_chrf.toFixed(2),
  }));
  const ranks = rank_correlation === null ? "undefined" : rank_correlation.toFixed(3);
  const figures = `rank correlation ${ranks}, expected calibration error ${calibration_error.toFixed(3)}`;
  return chart("chrF / 100 by confidence", bars, `(lines: mean confidence, where the bars should end; of ${feature}; ${figures})`);
}

function drawCharts() {
  const bars = [...report.byLength, ...(report.byUnseen ?? [])], some = bars.some((bar) => bar.interval);
  const from = bars.every((bar) => bar.interval) ? "" : `, from ${data.leastSentences} sentences`;
  const lines = some ? `lines: 95% confidence${from}; n: sentences` : "n: sentences";
  const ratios = groups(report.byLength).map((bar, i) => {
    const value = report.byLength[i].length_ratio;
    return { ...bar, value, interval: null, above: value.toFixed(2) };
  });
  const figures = [chart("BLEU by words of the source", groups(report.byLength), `(${lines})`)];
  if (report.byUnseen) {
    figures.push(chart("BLEU by words of the reference that training never had", groups(report.byUnseen), `(${lines})`));
  }
  figures.push(chart("Sentences by chrF", histogram(report.chrf), ""));
  figures.push(chart("Length by words of the source", ratios, "(words of the translations for each word of the references)"));
  if (report.reliability) figures.push(reliabilityChart(report.reliability));
  at("charts").replaceChildren(...figures);
  const text = report.byUnseen ? `Training text: ${report.trainingText}.` : `No BLEU by unseen words: ${report.trainingText}.`;
  at("words").textContent = `Words are those of sacreBLEU's 13a tokenization. BLEU of few sentences says little. ${text}`;
}

// ---- the sentences

const orders = {
  "worst first": (a, b) => report.chrf[a] - report.chrf[b],
  "best first": (a, b) => report.chrf[b] - report.chrf[a],
  "as in the test set": (a, b) => a - b,
};
const gain = (i) => report.chrf[i] - report.otherChrf[i];
const comparing = {
  "largest difference of chrF first": (a, b) => Math.abs(gain(b)) - Math.abs(gain(a)),
  "largest gain first": (a, b) => gain(b) - gain(a),
  "largest loss first": (a, b) => gain(a) - gain(b),
};

function filter() {
  const text = controls.text.value.toLowerCase();
  const texts = [report.source, report.hypothesis, report.reference, report.otherHypothesis];
  const has = (i) => !text || texts.some((lines) => (lines[i] ?? "").toLowerCase().includes(text));
  const [from, to] = [Number(controls.from.value), Number(controls.to.value || 100)];
  shown = report.chrf.map((_, i) => i).filter((i) => report.chrf[i] >= from && report.chrf[i] <= to && has(i));
  const order = { ...orders, ...comparing }[controls.order.value];
  shown.sort((a, b) => order(a, b) || a - b);
  drawn = 0;
  at("count").textContent = `${shown.length} of ${report.chrf.length} sentences.`;
  at("body").replaceChildren();
  addRows();
}

function addRows() {
  at("body").append(...shown.slice(drawn, drawn + PAGE).map(row));
  drawn = Math.min(drawn + PAGE, shown.length);
  at("more").hidden = drawn === shown.length;
  at("more").textContent = `show more (${shown.length - drawn})`;
}

function row(i) {
  const [extra, missing] = report.marks[i];
  const score = make("td", report.chrf[i].toFixed(1));
  const text = [
    ...line("source", report.source[i], [], "", "s"),
    ...line("translation", report.hypothesis[i], extra, "extra", "t"),
    ...line("reference", report.reference[i], missing, "missing", ""),
  ];
  if (report.other) {
    text.push(...line("other system", report.otherHypothesis[i], report.otherMarks[i], "extra", ""));
    score.append(make("small", `other ${report.otherChrf[i].toFixed(1)}`), make("small", signed(gain(i))));
  }
  const element = make("tr", [make("td", String(i + 1)), score, make("td", make("dl", text, { className: "text" }))]);
  if (report.links) link(element, report.links[i]);
  return element;
}

/** A line's words, those in `marked` marked, each with its side and place for `link`. */
function line(name, text, marked, kind, side) {
  const set = new Set(marked);
  const words = (text ? text.split(" ") : []).flatMap((word, i) => {
    const element = set.has(i) ? make("mark", word, { className: kind }) : make("span", word);
    element.dataset.word = side + i;
    return i ? [" ", element] : [element];
  });
  return [make("dt", name), make("dd", words.length ? words : make("small", "(empty)"), { dir: "auto" })];
}

/** Pointing at a word shows what it is aligned with: links "0-1" join word 0 of the source and 1 of the translation. */
function link(element, links) {
  const pairs = links.split(" ").filter(Boolean).map((each) => each.split("-")).map(([s, t]) => [`s${s}`, `t${t}`]);
  const word = (name) => element.querySelector(`[data-word="${name}"]`);
  const show = (name) => {
    for (const old of element.querySelectorAll(".linked")) old.classList.remove("linked");
    for (const pair of pairs) if (pair.includes(name)) for (const each of pair) word(each)?.classList.add("linked");
  };
  // A finger points by its click alone: what it hovers over is over when it leaves the screen.
  element.addEventListener("pointerover", ({ pointerType, target }) => pointerType !== "touch" && show(target.dataset.word));
  element.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && show());
  element.addEventListener("click", ({ target }) => show(target.dataset.word));
}

function choose() {
  report = data.reports[at("which").elements.report.value];
  const names = Object.keys(report.other ? { ...orders, ...comparing } : orders);
  const before = controls.order.value;
  controls.order.replaceChildren(...names.map((name) => make("option", name)));
  if (names.includes(before)) controls.order.value = before;
  at("pointing").textContent = report.links ? "Point at a word of the source or the translation, or tap it, to see what it is aligned with." : "";
  const looping = report.looping.length ? ` Lines whose translations loop: ${report.looping.join(", ")}.` : "";
  at("checks").textContent = report.checks ? `Checks: ${report.checks}.${looping}` : "";
  drawCharts();
  filter();
}

drawScores();
drawRobustness();
narrow.addEventListener("change", drawCharts);
at("which").elements.report.replaceChildren(...data.reports.map((each, value) => make("option", each.name, { value })));
at("which").hidden = data.reports.length < 2;
at("which").addEventListener("change", choose);
at("controls").addEventListener("input", filter);
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", addRows);
choose();
