// ---- files: a text, HTML or XML that is chosen or dropped comes back translated

const MARKUPS = { txt: "", html: "html", htm: "html", xhtml: "xml", xml: "xml" }; // by the ending of a name
const MEDIA_TYPES = { "": "text/plain", html: "text/html", xml: "application/xml" };
let filesBefore = Promise.resolve(); // files are translated one by one, in the order in which they came

/** Translates files into the `pair` of now with the terms of now; `ask` is called with the error of a missing key. */
function translateFiles(files, pair, terms, ask) {
  for (const file of files) {
    const row = at("file-list").appendChild(make("li", ""));
    at("files").hidden = false;
    const go = () => {
      row.replaceChildren(file.name, make("small", "waiting", { role: "status" }));
      filesBefore = filesBefore.then(() => translateFile(file, pair, terms, row).catch((error) => {
        row.replaceChildren(file.name, make("small", error.message, { role: "alert" }));
        if (error.mayPass) row.append(make("button", "try again", { type: "button", onclick: go }));
        if (error.needsKey) ask(error);
      }));
    };
    go();
  }
}

async function translateFile(file, [source, target], terms, row) {
  const [, stem, ending] = file.name.match(/^(.*?)(?:\.([^.]*))?$/s);
  const markup = MARKUPS[ending?.toLowerCase()];
  if (markup === undefined) throw new Error("Only .txt, .html and .xml can be translated.");
  const state = row.querySelector("small");
  state.textContent = "translating …";
  const body = { text: await textOf(file, markup), source, target, markup, terms, words: false };
  const say = (message) => { state.textContent = message || "translating …"; };
  const response = await patiently(() => post("page/translate", body), null, say);
  const { text } = await reached(response.json(), BROKEN_OFF);
  const name = `${stem}.${target}.${ending}`;
  const href = URL.createObjectURL(new Blob([text], { type: `${MEDIA_TYPES[markup]};charset=utf-8` }));
  row.replaceChildren(make("a", name, { href, download: name }), make("small", "is translated: save it", { role: "status" }));
}

/** The text of a file. Its translation is written in UTF-8, so a file that is in another code is refused. */
async function textOf(file, markup) {
  const refused = new Error("It is not in UTF-8. Save it in UTF-8 first.");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
  } catch {
    throw refused;
  }
  const start = text.slice(0, 1024);
  const declared = markup && start.match(/<(?:\?xml[^>]*\sencoding|meta[^>]*charset)\s*=\s*["']?([\w.:-]+)/i);
  if (declared && !/^utf-?8$/i.test(declared[1])) throw refused;
  return text;
}

/** A drop of files, anywhere on the page, and the button. */
function watchFiles(take) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  let inside = 0; // elements that a dragged file is over: dragenter comes before the dragleave of the last one
  const drag = (change) => (event) => {
    if (!hasFiles(event)) return;
    inside += change;
    at("drop").hidden = inside <= 0;
  };
  addEventListener("dragenter", drag(1));
  addEventListener("dragleave", drag(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    inside = 0;
    at("drop").hidden = true;
    take(event.dataTransfer.files);
  });
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    take(at("file").files);
    at("file").value = "";
  });
}
