// ---- the terminology: a table for each pair of languages, kept until the tab is closed

let usedTerms = "[]"; // the pairs of now, as JSON

/** The table's name in `kept`. */
const storedTerms = (pair) => `terms ${pair.join("-")}`;

/** Shows the table that was kept for this pair. */
function openTerms(pair) {
  const rows = JSON.parse(kept.getItem(storedTerms(pair)) ?? "[]");
  at("term-rows").replaceChildren(...[...rows, ...(rows.length ? [] : [["", ""]])].map(termRow));
  usedTerms = JSON.stringify(termPairs());
  noteTerms();
}

function termRow([term, translation]) {
  const row = make("tr", "");
  for (const [name, value] of [["term", term], ["translation", translation]]) {
    const input = make("input", "", { value, autocomplete: "off", ariaLabel: name === "term" ? "term" : "its translation" });
    input.dataset.name = name;
    row.appendChild(make("td", "")).append(input);
  }
  const remove = { type: "button", ariaLabel: "remove this row", title: "remove this row" };
  row.appendChild(make("td", "")).append(make("button", "×", remove));
  return row;
}

/** All rows as they are, half-filled ones too. */
function termRows() {
  return [...at("term-rows").rows].map((row) => [...row.querySelectorAll("input")].map((input) => input.value.trim()));
}

/** The pairs that go along with a text: of the rows that have both. */
const termPairs = () => termRows().filter(([term, translation]) => term && translation);

/** Says how many there are, and which rows are left out. */
function noteTerms() {
  const rows = termRows(), count = termPairs().length;
  const halves = rows.flatMap(([term, translation], i) => (Boolean(term) === Boolean(translation) ? [] : [i + 1]));
  at("term-count").textContent = count ? `(${count})` : "";
  const which = halves.length > 1 ? `Rows ${halves.join(", ")} are` : `Row ${halves[0]} is`;
  at("term-note").textContent = halves.length ? `${which} half empty and left out.` : "";
}

/** Calls `changed` when other terms should be used. */
function watchTerms(pairOf, changed) {
  const keep = () => {
    kept.setItem(storedTerms(pairOf()), JSON.stringify(termRows().filter((row) => row.some(Boolean))));
    noteTerms();
    const before = usedTerms;
    usedTerms = JSON.stringify(termPairs());
    if (usedTerms !== before) changed();
  };
  at("terms").addEventListener("input", keep);
  at("terms").addEventListener("click", ({ target }) => {
    const row = target.closest("tbody button")?.closest("tr");
    if (!row) return;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next ?? at("term-rows").appendChild(termRow(["", ""]))).querySelector("input").focus();
    keep();
  });
  at("add-term").addEventListener("click", () => at("term-rows").appendChild(termRow(["", ""])).querySelector("input").focus());
}
