"use strict";
const at = (id) => document.getElementById(id);
const KEY = "key"; // its name in `kept`
const BROKEN_OFF = "The server's answer broke off.";

/** What is kept until the tab is closed; where the browser keeps nothing, until the page is. */
const kept = (() => {
  try {
    return window.sessionStorage;
  } catch {
    const values = new Map();
    return { getItem: (name) => values.get(name) ?? null, setItem: (name, value) => values.set(name, value) };
  }
})();

/** Text only ever goes in as text: a translation may hold anything, markup too. */
function make(tag, text, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.textContent = text;
  return element;
}

// ---- asking the server: every function throws ServerError, or AbortError when `signal` says so

/** An answer that is no translation. `again`: the seconds after which the server can be asked again, or null; `mayPass`: might
 * the same request be answered later, or with another key? */
class ServerError extends Error {
  constructor(message, status, again = null) {
    super(message);
    const needsKey = status === 401 || status === 403;
    const mayPass = needsKey || status === 0 || status === 408 || status === 429 || status >= 500;
    Object.assign(this, { status, again, needsKey, mayPass });
  }
}

async function post(path, body, signal, accept = "application/json") {
  const headers = { "Content-Type": "application/json", Accept: accept };
  const key = kept.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store" };
  const response = await reached(fetch(path, request));
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function reached(promise, otherwise = "The server cannot be reached.") {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(otherwise, 0);
  }
}

async function errorOf(response) {
  let message = `The server answered with the status ${response.status}.`;
  try {
    message = String((await response.json()).error ?? message);
  } catch (error) {
    if (error.name === "AbortError") throw error; // else it is no JSON: the status says what is known
  }
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ServerError(message, response.status, response.status === 503 ? after || 1 : null);
}

/** The answer to `ask()`, which is asked again for as long as the server is busy; `say` is told what goes on. */
async function patiently(ask, signal, say) {
  for (let tries = 0; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (!(error.again > 0)) throw error;
      const seconds = Math.max(error.again, Math.min(2 ** tries, 30));
      say(`The server is busy. This page tries again in ${seconds} s.`);
      await sleep(seconds, signal);
      say("");
    }
  }
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** The whole answer for a text; before it, `grown` is called with the translation so far. */
async function translated(body, signal, grown) {
  const response = await post("page/translate", body, signal, "text/event-stream");
  for await (const [name, data] of eventsOf(response)) {
    if (name === "done") return data;
    if (name === "error") throw new ServerError(data.error, data.status, data.again);
    grown(data.text);
  }
  throw new ServerError(BROKEN_OFF, 0);
}

/** The [name, data] of server-sent events; fetch reads them, as EventSource can neither post nor send a key. */
async function* eventsOf(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  for (let rest = ""; ;) {
    const { done, value } = await reached(reader.read(), BROKEN_OFF);
    if (done) return;
    const events = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [, name, data] = event.match(/^event: ([^\n]*)\ndata: (.*)$/s);
      yield [name, JSON.parse(data)];
    }
  }
}
