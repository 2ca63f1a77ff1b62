// ---- typing and its translation

const WAIT = 250; // ms after the last change before the server is asked
const QUIET = 400; // ms in which no one needs to know that a translation is under way
const SLOW = 8000; // ms after which the page says that the server is slow

const pairs = data.pairs;
const controls = at("languages").elements;
const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
const currentPair = () => [controls.source.value, controls.target.value];

let asked = null; // AbortController of the request under way
let timer = 0;

/** Asks the server, soon; what was asked before is overtaken, and the server hears that nobody waits for it. */
function translateSoon(wait = WAIT) {
  asked?.abort();
  clearTimeout(timer);
  timer = setTimeout(translateNow, wait);
}

async function translateNow() {
  asked?.abort();
  const text = at("text").value, [source, target] = currentPair();
  showError(null);
  say("");
  if (!text.trim()) return finish(null);
  const { signal } = (asked = new AbortController());
  const timers = [
    setTimeout(() => say("translating …"), QUIET),
    setTimeout(() => say("still translating: the server is slow"), SLOW),
  ];
  at("translation").ariaBusy = "true";
  try {
    const body = { text, source, target, alternatives: data.alternatives, terms: termPairs() };
    const answer = await patiently(() => translated(body, signal, showGrown), signal, say);
    if (!signal.aborted) finish(placed(text, answer));
  } catch (error) {
    if (!signal.aborted) fail(error);
  } finally {
    timers.forEach(clearTimeout);
  }
}

/** The translation so far, which has no words to point at yet. */
function showGrown(text) {
  showAnswer({ text, source: at("text").value, words: [], places: [], confidence: null, alternatives: [] });
  at("readout").textContent = "";
}

function finish(answer) {
  at("translation").ariaBusy = "false";
  say("");
  showAnswer(answer);
  showOthers(answer?.alternatives ?? []);
  at("clear").hidden = !at("text").value;
  at("copy").hidden = !answer?.text || !navigator.clipboard;
  at("attention").hidden = !answer?.text || !data.attention;
  at("announced").textContent = answer ? answer.text : "";
}

function fail(error) {
  finish(null);
  if (error.needsKey) askForKey(error);
  else showError(error);
}

function say(message) {
  at("progress").textContent = message;
}

function showError(error, again = () => translateSoon(0)) {
  at("error").hidden = !error;
  at("error-text").textContent = error?.message ?? "";
  if (error) at("error").scrollIntoView({ block: "nearest" });
  at("again").hidden = !error?.mayPass;
  at("again").onclick = again;
}

/** Other translations, each with a button that copies it. */
function showOthers(texts) {
  at("others").hidden = !texts.length;
  at("other-list").replaceChildren(...texts.map((text, i) => {
    const item = make("li", ""), row = item.appendChild(make("div", ""));
    row.append(make("span", text, { lang: controls.target.value, dir: "auto" }));
    const name = { type: "button", ariaLabel: `copy other translation ${i + 1}` };
    if (navigator.clipboard) row.append(copyButton(() => text, make("button", "copy", name)));
    return item;
  }));
}

function copyButton(textOf, button) {
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(textOf());
      button.textContent = "copied";
    } catch {
      button.textContent = "the browser does not allow it";
    }
    at("announced").textContent = button.textContent;
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  return button;
}

// ---- the key

function askForKey(error) {
  at("key").hidden = false;
  at("key-note").textContent = `${error.message} The page keeps the key until this tab is closed.`;
  at("key").elements.key.focus();
}

at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = at("key").elements.key;
  kept.setItem(KEY, input.value.trim());
  input.value = "";
  at("key").hidden = true;
  at("text").focus();
  translateSoon(0);
});

// ---- languages

function showLanguages() {
  const [source, target] = currentPair();
  at("source-name").textContent = names.of(source);
  at("target-name").textContent = names.of(target);
  at("text").lang = source;
  at("translation").lang = target;
  at("swap").hidden = !pairs.some(([from, to]) => from === target && to === source);
  openTerms([source, target]);
}

/** Offers the languages that there are, and of the targets those of this source. */
function choosePair(source, target) {
  const offer = (select, codes, chosen) => {
    select.replaceChildren(...codes.map((code) => make("option", names.of(code), { value: code })));
    select.value = codes.includes(chosen) ? chosen : codes[0];
  };
  offer(controls.source, [...new Set(pairs.map(([from]) => from))], source);
  offer(controls.target, pairs.filter(([from]) => from === controls.source.value).map(([, to]) => to), target);
  showLanguages();
}

/** Into other languages: what is shown is of the languages before. */
function changePair(source, target) {
  choosePair(source, target);
  finish(null);
  translateSoon(0);
}

// ---- the attention page

/** Opens the page of the text that is selected, or of all. */
async function openAttention() {
  const { value, selectionStart, selectionEnd } = at("text");
  const text = value.slice(selectionStart, selectionEnd).trim() || value.trim();
  const [source, target] = currentPair();
  showError(null);
  say("making the attention page …");
  try {
    const response = await patiently(() => post("page/attention", { text, source, target }, undefined, "text/html"), null, say);
    const html = await reached(response.text(), BROKEN_OFF);
    const href = URL.createObjectURL(new Blob([html], { type: "text/html;charset=utf-8" }));
    say("");
    // After a while browsers take a window for an advertisement: then there is a link.
    if (!open(href)) at("progress").replaceChildren(make("a", "open the attention page", { href, target: "_blank" }));
  } catch (error) {
    say("");
    if (error.needsKey) askForKey(error);
    else showError(error, openAttention);
  }
}

// ---- what one does

at("text").addEventListener("input", () => {
  outdate();
  translateSoon();
});
at("clear").addEventListener("click", () => {
  at("text").value = "";
  translateSoon(0);
  at("text").focus();
});
at("languages").addEventListener("change", () => changePair(...currentPair()));
at("languages").addEventListener("submit", (event) => event.preventDefault());
at("swap").addEventListener("click", () => {
  const [source, target] = currentPair();
  if (shown?.text) at("text").value = shown.text;
  changePair(target, source);
});
at("attention").addEventListener("click", openAttention);
copyButton(() => at("translation").textContent, at("copy"));
watchTerms(currentPair, () => at("text").value.trim() && translateSoon());
watchFiles((files) => translateFiles(files, currentPair(), termPairs(), askForKey));
at("languages").hidden = pairs.length === 1;
choosePair(...pairs[0]);
if (at("text").value) translateSoon(0); // a browser that goes back brings the text along
