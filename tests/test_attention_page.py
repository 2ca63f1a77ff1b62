"""The page to explore attention with: what is in the file, and what a browser makes of it."""

import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers import BROWSER, needs_browser
from matplotlib.image import imread

from transformer_jax.errors import UserError
from transformer_jax.visualization.attention_maps import AttentionMap
from transformer_jax.visualization.attention_page import write_page

SOURCE = "The elephant was too tired."
TRANSLATION = "Der Elefant war zu müde."
SOURCE_PIECES = (" The", " ele", "phant", " was", " too", " tired", ".", "(end)")
TARGET_PIECES = (" Der", " Elefant", " war", " zu", " mü", "de", ".", "(end)")
SOURCE_WORDS, TARGET_WORDS = ((*text.split(), "(end)") for text in (SOURCE, TRANSLATION))


def some_map(kind: str, queries, keys, layers: int = 3, heads: int = 4, seed: int = 0) -> AttentionMap:
    weights = np.exp(2 * np.random.default_rng(seed).standard_normal((layers, heads, len(queries), len(keys))))
    return AttentionMap(kind, tuple(queries), tuple(keys), (weights / weights.sum(-1, keepdims=True)).astype(np.float32))


PIECES = {
    "cross": some_map("cross", TARGET_PIECES, SOURCE_PIECES),
    "encoder": some_map("encoder", SOURCE_PIECES, SOURCE_PIECES, layers=2),
}
WORDS = {
    "cross": some_map("cross", TARGET_WORDS, SOURCE_WORDS, seed=1),
    "encoder": some_map("encoder", SOURCE_WORDS, SOURCE_WORDS, layers=2, seed=1),
}


def write(file, pieces=PIECES, words=WORDS, **changes):
    write_page(file, pieces, words, **{"source": SOURCE, "translation": TRANSLATION} | changes)
    return file


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text directly inside each."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))
        if tag not in ("meta", "br"):
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag):
        assert self.found[self._open.pop()][0] == tag

    def handle_data(self, text):
        if self._open:
            self.found[self._open[-1]][2].append(text)

    def by_id(self, name: str) -> str:
        (text,) = ("".join(text) for _, attributes, text in self.found if attributes.get("id") == name)
        return text

    def by_tag(self, name: str) -> str:
        (text,) = ("".join(text) for tag, _, text in self.found if tag == name)
        return text

    def tokens(self, side: str) -> list[tuple[str, str, dict[str, str | None]]]:
        """Label, share and attributes of the tokens that say data-query or data-key."""
        return [
            ("".join(text), "".join(self.found[number + 1][2]), attributes)
            for number, (tag, attributes, text) in enumerate(self.found)
            if tag == "button" and f"data-{side}" in attributes
        ]

    def pinned(self) -> list[str]:
        return [label for side in ("query", "key") for label, _, said in self.tokens(side) if said["aria-pressed"] == "true"]


def data_of(file) -> dict:
    return json.loads(Elements(file.read_text(encoding="utf-8")).by_id("data"))


def browse(file, state: str, *arguments: str) -> str:
    """What a browser without a window prints after opening the file in this state."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command += [f"--user-data-dir={file.parent / 'browser'}", *arguments, f"{file.as_uri()}#{state}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout


def dom(file, state: str) -> Elements:
    return Elements(browse(file, state, "--dump-dom"))


def assert_percentages(found, shares) -> None:
    """Of shares that were rounded to three decimals first."""
    assert all(re.fullmatch(r"\d+%", text) for text in found)
    np.testing.assert_allclose([int(text[:-1]) for text in found], 100 * np.ravel(shares), atol=0.551)


def test_the_data_are_the_maps_to_three_decimals(tmp_path):
    data = data_of(write(tmp_path / "page.html"))
    assert (data["source"], data["translation"]) == (SOURCE, TRANSLATION)
    for unit, maps in (("pieces", PIECES), ("words", WORDS)):
        assert data["maps"][unit].keys() == maps.keys()
        for kind, expected in maps.items():
            found = data["maps"][unit][kind]
            assert (tuple(found["queries"]), tuple(found["keys"])) == (expected.queries, expected.keys)
            np.testing.assert_allclose(np.array(found["thousandths"]) / 1000, expected.weights, atol=0.000501)


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    page = write(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|\bsrc\s*=|<link|@import|url\(|\bfetch\(", page)
    assert "{{" not in page


HOSTILE = """</script><script>document.title="taken"</script><b>'"&lt;<!-- \u2028 \\ {{data}} 🐘"""


def hostile_page(file):
    labels = (HOSTILE, "🐘")
    maps = {"cross": some_map("cross", labels, labels)}
    return write(file, maps, maps, source=HOSTILE, translation=HOSTILE)


def test_text_cannot_break_out_of_the_data(tmp_path):
    file = hostile_page(tmp_path / "page.html")
    data = data_of(file)
    assert data["source"] == data["translation"] == data["maps"]["words"]["cross"]["keys"][0] == HOSTILE
    tags = [tag for tag, _, _ in Elements(file.read_text(encoding="utf-8")).found]
    assert tags.count("script") == 2 and "b" not in tags


@pytest.mark.parametrize("name", ["no/such/folder/page.html", "."])
def test_a_file_that_cannot_be_written_is_told(tmp_path, name):
    file = tmp_path / name
    with pytest.raises(UserError, match=f"^{re.escape(str(file))}: cannot be written") as told:
        write(file)
    assert "\n" not in str(told.value)


@needs_browser
def test_a_pinned_query_shows_its_shares_on_the_keys(tmp_path):
    expected = WORDS["encoder"].mean(layer=2, head=1)[4]
    page = dom(write(tmp_path / "page.html"), "kind=encoder&layer=2&head=1&unit=words&query=4")
    labels, shares, attributes = zip(*page.tokens("key"), strict=True)
    assert labels == SOURCE_WORDS
    assert_percentages(shares, expected)
    assert [number for number, said in enumerate(attributes) if "most" in (said.get("class") or "")] == [expected.argmax()]
    assert page.pinned() == [SOURCE_WORDS[4]]
    assert page.by_id("source") == SOURCE
    assert f"{100 * expected.max():.1f}%" in page.by_id("readout")


@needs_browser
def test_a_pinned_key_shows_which_queries_look_at_it(tmp_path):
    page = dom(write(tmp_path / "page.html"), "unit=pieces&head=3&key=2")
    labels, shares, _ = zip(*page.tokens("query"), strict=True)
    assert labels == tuple(label.strip() for label in TARGET_PIECES)
    assert_percentages(shares, PIECES["cross"].mean(head=3)[:, 2])


@needs_browser
def test_the_heat_map_holds_the_mean_of_all(tmp_path):
    page = dom(write(tmp_path / "page.html", kind="encoder", layer=3), "")  # the encoder has two layers: 3 becomes 0, the mean
    cells = ["".join(text) for tag, attributes, text in page.found if tag == "td" and "data-key" in attributes]
    assert_percentages(cells, WORDS["encoder"].mean())


@needs_browser
def test_only_what_the_model_has_can_be_chosen(tmp_path):
    """An LSTM: one kind of attention, one layer, one head."""
    maps = {"cross": some_map("cross", TARGET_WORDS, SOURCE_WORDS, layers=1, heads=1)}
    page = dom(write(tmp_path / "page.html", maps, maps, kind="encoder"), "layer=2&head=x&query=99&unit=none")
    options = ["".join(text) for tag, _, text in page.found if tag == "option"]
    assert options == ["translation → source", *["mean of all", "1"] * 2, "words", "pieces of words"]
    assert page.pinned() == []
    assert ("section", {"id": "heads", "aria-label": "all heads", "hidden": ""}) in [found[:2] for found in page.found]


@needs_browser
def test_every_head_is_a_small_map_that_opens_by_a_click(tmp_path):
    file = write(tmp_path / "page.html")
    thumbs = [said for tag, said, _ in dom(file, "layer=2&head=3").found if tag == "button" and "data-layer" in said]
    assert len(thumbs) == 1 + 3 * (1 + 4)  # the mean of all; of each of three layers the mean and four heads
    assert [said["aria-label"] for said in thumbs if said["aria-current"] == "true"] == ["layer 2, head 3"]
    found = acted(
        file,
        ("button[data-query='1']", "new MouseEvent('click', how)"),
        ("button[data-layer='3'][data-head='4'] canvas", "new MouseEvent('click', how)"),
        ("button[data-layer='0']", "new MouseEvent('click', how)"),
    )
    assert [link for link, _, _ in found[1:]] == [
        "#kind=cross&unit=words&layer=3&head=4&query=1",
        "#kind=cross&unit=words&layer=0&head=0&query=1",
    ]


@needs_browser
def test_a_map_that_goes_on_beyond_the_edge_shows_it(tmp_path):
    wide = {"cross": some_map("cross", TARGET_WORDS, SOURCE_WORDS * 8, layers=1, heads=1)}
    edges = [
        [said["class"] for _, said, _ in dom(write(tmp_path / name, maps, maps), "").found if said.get("id") == "map"]
        for name, maps in (("wide.html", wide), ("narrow.html", {"cross": WORDS["cross"]}))
    ]
    assert edges == [["edges more-right"], ["edges"]]


@needs_browser
def test_clicks_pin_and_escape_lets_go(tmp_path):
    found = acted(
        write(tmp_path / "page.html"),
        ("button[data-query='1']", "new MouseEvent('click', how)"),
        ("button[data-query='1']", "new MouseEvent('click', how)"),
        ("button[data-key='0']", "new MouseEvent('click', how)"),
        ("td[data-query='2'][data-key='3']", "new MouseEvent('click', how)"),
        ("body", "new KeyboardEvent('keydown', { key: 'Escape', ...how })"),
    )
    chosen = "#kind=cross&unit=words&layer=2&head=0"
    assert [link for link, _, _ in found] == [f"{chosen}{pin}" for pin in ("&query=1", "", "&key=0", "&query=2&key=3", "")]
    assert [pinned for _, pinned, _ in found] == ["Elefant", "", "The", "war too", ""]


@needs_browser
def test_pointing_and_the_keyboards_focus_go_before_what_is_pinned(tmp_path):
    """Focus is made up: a browser without a window may give the page none."""
    found = acted(
        write(tmp_path / "page.html"),
        ("button[data-query='1']", "new MouseEvent('click', how)"),
        ("button[data-query='0']", "new PointerEvent('pointerover', how)"),
        ("td[data-query='2'][data-key='3']", "new PointerEvent('pointerover', how)"),
        ("main", "new PointerEvent('pointerleave', how)"),
        ("button[data-query='0']", "new PointerEvent('pointerover', { pointerType: 'touch', ...how })"),
        ("button[data-key='0']", "(element.matches = (rule) => rule === ':focus-visible', new FocusEvent('focusin', how))"),
    )
    assert [pinned for _, pinned, _ in found] == ["Elefant"] * 6
    starts = [
        "“Elefant” attends most to",
        "“Der” attends most to",
        "“war” attends to “too”",
        "“Elefant” attends most to",
        "“Elefant” attends most to",
        "“The” has its largest weight from",
    ]
    assert [text[: len(start)] for (_, _, text), start in zip(found, starts, strict=True)] == starts


@needs_browser
def test_a_pin_stays_from_head_to_head_but_not_between_other_words(tmp_path):
    found = acted(
        write(tmp_path / "page.html"),
        ("button[data-query='1']", "new MouseEvent('click', how)"),
        ("select[name=head]", "(element.value = '3', new Event('change', how))"),
        ("select[name=layer]", "(element.value = '3', new Event('change', how))"),
        ("select[name=unit]", "(element.value = 'pieces', new Event('change', how))"),
        ("select[name=kind]", "(element.value = 'encoder', new Event('change', how))"),
    )
    assert [link for link, _, _ in found[1:]] == [
        "#kind=cross&unit=words&layer=2&head=3&query=1",
        "#kind=cross&unit=words&layer=3&head=3&query=1",
        "#kind=cross&unit=pieces&layer=3&head=3",
        "#kind=encoder&unit=pieces&layer=0&head=3",  # the encoder has two layers
    ]


def acted(file, *events: tuple[str, str]) -> list[list[str]]:
    """The address, the pinned labels and the sentence after each event, by a script that is added to the page for this.

    An event is the selector of its element and the JavaScript of the event itself.
    """
    steps = ", ".join(f"[{json.dumps(selector)}, (element) => {event}]" for selector, event in events)
    script = f"<script>const steps = [{steps}]; {ACT}</script></body>"
    file.write_text(file.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    return json.loads(dom(file, "layer=2").by_tag("title"))


ACT = """
  const how = { bubbles: true }, seen = [];
  for (const [selector, makeEvent] of steps) {
    const element = document.querySelector(selector);
    element.dispatchEvent(makeEvent(element));
    const pinned = [...document.querySelectorAll("[aria-pressed=true]")].map((token) => token.firstChild.data);
    seen.push([location.hash, pinned.join(" "), document.getElementById("readout").textContent]);
  }
  document.title = JSON.stringify(seen);
"""


@needs_browser
def test_hostile_text_is_shown_as_it_is(tmp_path):
    page = dom(hostile_page(tmp_path / "page.html"), "query=0")
    assert page.by_id("source") == page.by_id("translation") == page.tokens("key")[0][0] == HOSTILE
    assert page.by_tag("title") == "Attention"
    assert "b" not in [tag for tag, _, _ in page.found]


@needs_browser
def test_the_page_is_a_picture_of_the_size_asked(tmp_path):
    picture = tmp_path / "page.png"
    page = write(tmp_path / "page.html")
    browse(page, "kind=cross&query=4", f"--screenshot={picture}", "--window-size=900,700", "--hide-scrollbars")
    pixels = imread(picture)
    assert pixels.shape[:2] == (700, 900)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10  # a blank page has one colour
