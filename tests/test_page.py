"""The page at `/` in a browser, before a service without a model: what one types, points at and drops, and what goes wrong."""

import json

import pytest
from browser import Browser
from fake_service import FakeService, served
from helpers import BROWSER, needs_browser
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from test_attention_page import PIECES, WORDS

from transformer_jax.serving.errors import BadRequest, Busy, TooLarge, TooSlow
from transformer_jax.serving.guard import Guard
from transformer_jax.serving.page_api import page_routes
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.service import ServedText
from transformer_jax.visualization.attention_page import attention_html

KEY = "right key"
XML = "<?xml version='1.0' encoding='UTF-8'?>"
FILES = "#file-list li:last-child"


class Service(FakeService):
    """Asks for a key, where one is set."""

    key = ""

    async def attention_page(self, text, pair):
        if "\n" in text:
            raise BadRequest("The attention page is of one sentence.")
        return attention_html(PIECES, WORDS, source=text, translation="Ein Elefant.")

    async def check(self, request, answer):
        given = request.headers.get("authorization")
        if request.method == "POST" and self.key and given != f"Bearer {self.key}":
            return JSONResponse({"error": "This server asks for a key."}, 403)
        return await answer(request)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(BROWSER, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def running():
    service = Service()
    app = Starlette(routes=page_routes(service, attention=service))
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, answer: service.check(request, answer))
    with served(Guard(app, RequestLimits())) as address:
        yield service, address


@pytest.fixture
def service(running):
    service = running[0]
    service.delay, service.errors, service.asked, service.left, service.key = 0.0, [], [], [], ""
    service.aligned = service.calibrated = True
    return service


@pytest.fixture
def page(browser, running, service):
    """The page, opened anew; at the end neither its script nor its policy has complained."""
    page = browser.open(running[1])
    yield page
    assert page.complaints() == []
    page.close()


def linked(page) -> list[str]:
    return page.run("[...document.querySelectorAll('.linked')].map((element) => element.textContent)")


def translate(page, text: str, german: str) -> None:
    page.type("#text", text)
    page.wait(f"document.querySelector('#translation').textContent === {json.dumps(german)}")
    page.wait("document.querySelector('#translation').ariaBusy === 'false'")


@needs_browser
def test_typing_is_translated_and_what_is_overtaken_is_given_up(page, service):
    service.delay = 10.0
    page.type("#text", "the")
    page.wait_for("#progress", "translating …")
    service.delay = 0.0
    translate(page, " young dog\n\nsleeps", "der junge Hund\n\nschläft")
    assert "the" in [text for text, _, _ in service.asked] and "the" in service.left
    asked = len(service.asked)
    page.run("for (let i = 0; i < 50; i++) document.querySelector('#text').dispatchEvent(new Event('input'))")
    page.wait("document.querySelector('#translation').className === 'field'")
    assert len(service.asked) == asked + 1  # not one for each key
    assert page.text("#announced") == "der junge Hund\n\nschläft"
    assert page.text("#progress") == ""
    alternatives = page.run("[...document.querySelectorAll('#other-list li span')].map((element) => element.textContent)")
    assert len(alternatives) == 2 and alternatives[0].startswith("der junge Hund")
    page.click("#clear")
    page.wait("document.querySelector('#translation').textContent === ''")
    assert not page.visible("#others") and not page.visible("#clear")


@needs_browser
def test_pointing_at_a_word_marks_its_source_and_says_how_sure_it_is(page):
    translate(page, "🐘 the young dog sleeps", "🐘 der junge Hund schläft")
    assert "Confidence in this translation: 83%. Words: 5, of which 1 less sure, 1 unsure." in page.text("#readout")
    said = []
    for index in (1, 2, 3, 4):
        page.hover(**page.centre("[data-word]", index))
        said.append((*linked(page), page.text("#readout")))
    assert said == [
        ("the", "der", "“der” comes from “the”. The model is sure: 90%."),
        ("young", "junge", "“junge” comes from “young”. The model is unsure: 31%."),
        ("dog", "Hund", "“Hund” comes from “dog”. The model is sure: 97%."),
        ("sleeps", "schläft", "“schläft” comes from “sleeps”. The model is less sure: 62%."),
    ]
    page.hover(5, 5)
    assert linked(page) == []
    look = "(word) => [word.className, word.ariaLabel, getComputedStyle(word).textDecorationStyle]"
    assert page.run(f"[...document.querySelectorAll('[data-word]')].map({look})")[2:] == [
        ["unsure", "junge, unsure", "double"],
        ["sure", None, "solid"],
        ["less-sure", "schläft, less sure", "dotted"],
    ]
    assert page.text("#legend") == "The model's probability of a word:sure 80% and moreless sure 50% to 80%unsure below 50%"


@needs_browser
def test_pointing_at_the_source_marks_its_translation(page):
    translate(page, "the young dog", "der junge Hund")
    page.hover(**page.centre("[data-place]", 1))
    assert (linked(page), page.text("#readout")) == (["young", "junge"], "“young” became “junge”.")
    page.press("Home", 36)
    assert (linked(page), page.text("#readout")) == (["young", "junge"], "“young” became “junge”.")  # the pointer goes before
    page.hover(5, 5)
    assert (linked(page), page.text("#readout")) == (["the", "der"], "“the” became “der”.")
    page.type("#text", " ")
    assert linked(page) == [] and page.run("document.querySelector('#translation').className") == "field old"


@needs_browser
def test_by_keyboard_words_are_gone_through_and_kept(page):
    translate(page, "the young dog", "der junge Hund")
    for _ in range(3):  # the button for files, the one that clears the text, the first word
        page.press("Tab", 9)
    assert linked(page) == ["the", "der"]
    page.press("ArrowRight", 39)
    page.press("ArrowRight", 39)
    assert linked(page) == ["dog", "Hund"]
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.ariaPressed") == "true"
    page.press("Tab", 9)
    assert linked(page) == ["dog", "Hund"] and page.run("document.activeElement.id") in ("copy", "attention")
    page.press("Escape", 27)
    assert linked(page) == []


@needs_browser
def test_on_a_phone_a_tap_marks_and_nothing_is_wider_than_the_screen(browser, running, service):
    page = browser.open(running[1], width=320, height=640, touch=True)
    translate(page, "the young dog " + 60 * "x", "der junge Hund " + 60 * "x")
    page.tap("[data-word]", 1)
    page.wait("document.querySelectorAll('.linked').length")
    assert linked(page) == ["young", "junge"]
    page.tap("[data-word]", 1)
    page.wait("!document.querySelectorAll('.linked').length")
    page.run("document.querySelector('#terms').open = true")
    assert page.run("document.documentElement.scrollWidth") == 320
    assert page.complaints() == []
    page.close()


@needs_browser
def test_a_model_without_alignment_or_calibration_says_what_it_knows(page, service):
    service.aligned = service.calibrated = False
    translate(page, "the dog", "der Hund")
    assert page.text("#readout") == "Words: 2, all sure. Point at a word, or tap it, to see how sure the model is of it."
    page.hover(**page.centre("[data-word]", 1))
    assert page.text("#readout") == "“Hund”: it is not known what it comes from. The model is sure: 97%."


@needs_browser
def test_languages_are_swapped_and_the_translation_becomes_the_text(page, service):
    translate(page, "the dog", "der Hund")
    page.click("#swap")
    page.wait("document.querySelector('#text').value === 'der Hund'")
    page.wait_for("#translation", "the dog")
    assert service.asked[-1][:2] == ("der Hund", ("de", "en"))
    assert page.run("[document.querySelector('#text').lang, document.querySelector('#translation').lang]") == ["de", "en"]


@needs_browser
def test_only_directions_that_are_served_are_offered(browser):
    with served(page_routes(FakeService([("en", "de")]))) as address:
        page = browser.open(address)
        translate(page, "the dog", "der Hund")
        assert not page.visible("#languages") and not page.visible("#swap") and not page.visible("#attention")
        assert (page.text("#source-name"), page.text("#target-name")) == ("English", "German")
        page.close()
    with served(page_routes(FakeService([("en", "de"), ("en", "fr"), ("fr", "en")]))) as address:
        page = browser.open(address)
        options = "(name) => [...document.querySelector(`[name=${name}]`).options].map((option) => option.textContent)"
        assert page.run(f"['source', 'target'].map({options})") == [["English", "French"], ["German", "French"]]
        assert not page.visible("#swap")  # from German nothing is served
        page.close()


@needs_browser
def test_terms_are_used_and_kept_for_their_pair_of_languages(page, service):
    page.click("#terms summary")
    page.type("#term-rows input", "dog")
    assert page.text("#term-note") == "Row 1 is half empty and left out."
    translate(page, "the dog", "der Hund")
    page.type("#term-rows td:nth-child(2) input", "Köter")
    page.wait_for("#translation", "der Köter")
    assert (page.text("#term-note"), page.text("#term-count")) == ("", "(1)")
    page.click("#swap")
    assert page.run("document.querySelector('#term-rows input').value") == ""
    page.click("#swap")
    assert page.run("document.querySelector('#term-rows input').value") == "dog"
    page.wait_for("#translation", "der Köter")  # from now on nothing moves
    page.click("#term-rows button")
    page.wait("document.querySelector('#term-count').textContent === ''")
    assert page.run("document.activeElement.dataset.name") == "term"
    page.click("#add-term")
    for row, translation in enumerate(("a", "b"), 1):
        page.type(f"#term-rows tr:nth-child({row}) input", "dog")
        page.type(f"#term-rows tr:nth-child({row}) td:nth-child(2) input", translation)
    page.wait_for("#error", "'dog' has two translations in the terminology; leave one of them")


@needs_browser
@pytest.mark.parametrize(
    ("name", "text", "markup", "german"),
    [
        ("a.b.txt", "the dog\r\n\r\nsleeps", "", "der Hund\r\n\r\nschläft"),
        ("page.HTML", '<meta charset="utf-8"><p>the <b>dog</b></p>', "html", '<meta charset="utf-8"><p>der <b>Hund</b></p>'),
        ("strings.xml", f"{XML}<a>dog</a>", "xml", f"{XML}<a>Hund</a>"),
    ],
    ids=["text", "html", "xml"],
)
def test_a_file_that_is_dropped_comes_back_translated(page, service, tmp_path, name, text, markup, german):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / name).write_bytes(text.encode())
    page.drop(tmp_path / "in" / name, until="dragOver")
    assert page.visible("#drop")
    page.drop(tmp_path / "in" / name)
    page.wait_for(f"{FILES} small", "is translated")
    assert not page.visible("#drop")
    saved = page.download(f"{FILES} a", tmp_path / "out")
    assert saved.name == name[: name.rindex(".")] + ".de" + name[name.rindex(".") :]
    assert saved.read_bytes().decode() == german
    assert service.asked[0][2].markup == markup and not service.asked[0][2].words


@needs_browser
def test_a_file_that_cannot_be_translated_is_told_and_the_others_are_translated(page, service, tmp_path):
    contents = {
        "a.pdf": b"",
        "b.txt": b"\xff\xfe",
        "c.xml": b'<?xml version="1.0" encoding="latin1"?><a/>',
        "d.txt": b"dog",
        "e.txt": b"dog",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    service.errors = [TooLarge("The file is too large."), TooSlow("It took too long.")]
    page.drop(*(tmp_path / name for name in contents))
    page.wait_for(FILES, "too long")
    told = page.run("[...document.querySelectorAll('#file-list [role=alert]')].map((element) => element.textContent)")
    unicode = "It is not in UTF-8. Save it in UTF-8 first."
    assert told == [
        "Only .txt, .html and .xml can be translated.",
        unicode,
        unicode,
        "The file is too large.",
        "It took too long.",
    ]
    assert page.run("document.querySelectorAll('#file-list button').length") == 1  # what is too large will be so again
    page.click(f"{FILES} button")
    page.wait_for(f"{FILES} a", "e.de.txt")


@needs_browser
def test_an_error_of_the_server_is_one_sentence_and_can_be_tried_again(page, service):
    service.errors = [TooLarge("The <b>text</b> is too long: send less."), TooSlow("That took too long.")]
    page.type("#text", "the")
    page.wait_for("#error-text", "The <b>text</b> is too long: send less.")
    assert (
        page.visible("#error") and not page.visible("#again") and page.run("document.querySelector('#error').role") == "alert"
    )
    page.type("#text", " dog")
    page.wait_for("#error-text", "That took too long.")
    page.click("#again")
    page.wait_for("#translation", "der Hund")
    assert not page.visible("#error")


@needs_browser
def test_a_slow_server_is_seen_at_work(page, service):
    service.delay = 10.0
    page.type("#text", "the young dog sleeps")
    page.wait("/^der[a-z ]*$/.test(document.querySelector('#translation').textContent)")
    assert page.run("document.querySelector('#translation').ariaBusy") == "true"
    assert not page.run("document.querySelectorAll('[data-word]').length")
    service.delay = 0.0  # from the next letter on
    page.wait("document.querySelectorAll('[data-word]').length === 4")


@needs_browser
def test_a_busy_server_is_asked_again(page, service):
    service.errors = [Busy("The queue is full."), Busy("The queue is full.")]
    page.type("#text", "dog")
    page.wait_for("#progress", "The server is busy. This page tries again in 1 s.")
    page.wait_for("#progress", "The server is busy. This page tries again in 2 s.")
    page.wait_for("#translation", "Hund")
    assert page.text("#progress") == "" and len(service.asked) == 3


@needs_browser
def test_a_server_that_is_gone_or_breaks_off_is_told(browser, service):
    class Broken(FakeService):
        async def stream(self, text, pair, options):
            if len(text) > 3:
                yield ServedText("H")
            raise RuntimeError("broken")

    with served(page_routes(Broken())) as address:
        page = browser.open(address)
        page.type("#text", "dog")
        page.wait_for("#error-text", "The server answered with the status 500.")
        page.type("#text", "s")
        page.wait_for("#error-text", "The server's answer broke off.")
    page.click("#again")
    page.wait_for("#error-text", "The server cannot be reached.")
    page.close()


@needs_browser
def test_a_key_is_asked_for_kept_and_sent(page, service, tmp_path):
    service.key = KEY
    page.type("#text", "dog")
    page.wait("document.querySelector('#key').checkVisibility()")
    assert page.text("#key-note").startswith("This server asks for a key.")
    assert page.run("document.activeElement.name") == "key" and not page.visible("#error")
    for key in ("wrong", KEY):
        page.wait("document.querySelector('#key').checkVisibility()")
        page.type("#key input", key)
        page.press("Enter", 13, "\r")
    page.wait_for("#translation", "Hund")
    assert not page.visible("#key")
    assert page.run("[sessionStorage.getItem('key'), localStorage.length]") == [KEY, 0]
    page.run("window.isOld = true; location.reload()")
    page.wait("!window.isOld && document.readyState === 'complete'")  # the old document is complete, too
    page.type("#text", " sleeps")
    page.wait_for("#translation", "schläft")
    assert not page.visible("#key")


@needs_browser
def test_a_translation_is_text_whatever_is_in_it(page, service, monkeypatch):
    hostile = "<img src=x onerror=\"document.title='taken'\"> <script>document.title='taken'</script> \u2028 &lt;"
    monkeypatch.setattr(Service, "_served", lambda self, *asked: ServedText(hostile, (hostile,)))
    page.type("#text", hostile)
    page.wait("document.querySelector('#others').checkVisibility()")
    assert page.text("#translation") == page.text("#other-list span") == hostile
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    assert page.run("document.title") == "Translation"


@needs_browser
def test_the_browser_keeps_to_the_policy(browser, running):
    """Were there a mistake in the script, text still could not become markup, nor come or go elsewhere."""
    page = browser.open(running[1])
    refused = "(() => { try { document.body.innerHTML = '<b>'; return 'taken' } catch (error) { return error.name } })()"
    assert page.run(refused) == "TypeError"
    assert page.run("fetch('http://localhost:1/').catch((error) => error.name)") == "TypeError"
    script = "const s = document.createElement('script'); s.src = 'data:,1'"
    assert page.run(f"(() => {{ try {{ {script}; return 'taken' }} catch (error) {{ return error.name }} }})()") == "TypeError"
    assert any("Content Security Policy" in text for text in page.complaints())
    page.close()


@needs_browser
def test_the_attention_page_opens_beside_and_its_script_runs(page, service):
    translate(page, "the elephant\nthe dog", "der Elefant\nder Hund")
    page.click("#attention")
    page.wait_for("#error-text", "The attention page is of one sentence.")
    page.run("document.querySelector('#text').setSelectionRange(0, 12)")
    page.click("#attention")
    page.wait("document.querySelector('#progress').textContent === ''")
    (other,) = page.others()
    other.wait("document.querySelectorAll('button[data-query]').length > 3")
    assert other.text("#source") == "the elephant"
    other.click("button[data-query='1']")
    assert other.run("getComputedStyle(document.querySelector('.tokens')).display") == "flex"
    assert not page.visible("#error")


@needs_browser
def test_a_screen_reader_hears_a_name_of_everything_that_can_be_used(page, service):
    translate(page, "the young dog", "der junge Hund")
    page.run("document.querySelector('#terms').open = true")
    nodes = [node for node in page.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    names = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    used = [(role, name) for role, name in names if role in ("button", "textbox", "combobox", "link", "DisclosureTriangle")]
    assert all(name for _, name in used)
    expected = [
        ("combobox", "from"),
        ("button", "swap the languages"),
        ("combobox", "to"),
        ("textbox", "English"),
        ("button", "translate a file"),
        ("button", "clear"),
        *[("button", word) for word in ("der", "junge, unsure", "Hund")],
        ("button", "copy"),
        ("button", "attention page"),
        *[("button", f"copy other translation {number}") for number in (1, 2)],
        ("DisclosureTriangle", "Terminology"),
        ("textbox", "term"),
        ("textbox", "its translation"),
        ("button", "remove this row"),
        ("button", "add a row"),
    ]
    assert sorted((role, name.strip()) for role, name in used) == sorted(expected)
    assert ("status", "") in names and ("heading", "German") in names


@needs_browser
def test_a_translation_is_copied(browser, page):
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    browser.send("Browser.grantPermissions", permissions=allowed, browserContextId=page.context)
    translate(page, "the dog", "der Hund")
    page.click("#copy")
    page.wait_for("#copy", "copied")
    assert page.run("navigator.clipboard.readText()") == "der Hund"
    page.click("#other-list button", 1)
    page.wait_for("#other-list li:nth-child(2) button", "copied")
    assert page.run("navigator.clipboard.readText()") == "der Hund (1)"


@needs_browser
def test_where_the_browser_keeps_nothing_the_page_goes_on(page, service):
    block = "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
    page.send("Page.addScriptToEvaluateOnNewDocument", source=block)
    page.run("window.isOld = true; location.reload()")
    page.wait("!window.isOld && document.readyState === 'complete'")
    service.key = KEY
    page.type("#text", "dog")
    page.wait("document.querySelector('#key').checkVisibility()")
    page.type("#key input", KEY)
    page.press("Enter", 13, "\r")
    page.wait_for("#translation", "Hund")
