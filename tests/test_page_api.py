"""What the page at `/` is, and what its endpoints answer, without a browser."""

import contextlib
import http.client
import json
import re
import time
from urllib.parse import urlsplit

import pytest
from fake_service import FakeService, served
from starlette.applications import Starlette

from transformer_jax.serving.errors import BadRequest, Busy, Forbidden, TooLarge, TooSlow
from transformer_jax.serving.guard import Guard
from transformer_jax.serving.page_api import page_html, page_routes
from transformer_jax.serving.request_limits import RequestLimits

TEXT = "the  dog\n\n🐘 sleeps"
GERMAN = "der  Hund\n\n🐘 schläft"
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def running():
    service = FakeService()
    app = Starlette(routes=page_routes(service, attention=service))
    with served(Guard(app, RequestLimits())) as address:
        yield service, urlsplit(address)


@pytest.fixture
def service(running):
    running[0].delay, running[0].errors, running[0].asked, running[0].left = 0.0, [], [], []
    return running[0]


@pytest.fixture
def ask(running, service):
    """Sends a request; gives the answer's status, headers and body."""

    def request(path="/page/translate", body=None, headers=None, method="POST", **changes):
        body = json.dumps({"text": TEXT, "source": "en", "target": "de"} | changes) if body is None else body
        with contextlib.closing(http.client.HTTPConnection(running[1].hostname, running[1].port, timeout=30)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    return request


def events(body: str) -> list[tuple[str, dict]]:
    pairs = [re.fullmatch("event: (.*)\ndata: (.*)", event) for event in body.split("\n\n")[:-1]]
    return [(pair[1], json.loads(pair[2])) for pair in pairs]


def test_an_answer_has_words_with_their_places_counted_in_characters(ask):
    status, _, body = ask(alternatives=2)
    answer = json.loads(body)
    assert (status, answer["text"], len(answer["alternatives"]), answer["confidence"]) == (200, GERMAN, 2, 0.83)
    found = [(GERMAN[word["start"] : word["end"]], *(TEXT[a:b] for a, b in word["source"])) for word in answer["words"]]
    assert found == [("der", "the"), ("Hund", "dog"), ("🐘", "🐘"), ("schläft", "sleeps")]
    assert [word["probability"] for word in answer["words"]] == [0.9, 0.97, 0.9, 0.62]


def test_a_request_is_what_the_service_gets(ask, service):
    ask(text="<p>dog</p>", markup="html", alternatives=1, terms=[["dog", "Köter"]], words=False)
    ((text, pair, options),) = service.asked
    assert (text, pair, options.markup, options.alternatives, options.words) == ("<p>dog</p>", ("en", "de"), "html", 1, False)
    assert options.terminology.translations("A dog.") == ["Köter"]


def test_a_stream_grows_and_ends_with_the_unstreamed_answer(ask, service):
    service.delay = 0.5
    status, headers, body = ask(headers=EVENTS)
    *growing, (name, last) = events(body)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert len(growing) > 3 and all(name == "text" and GERMAN.startswith(data["text"]) for name, data in growing)
    assert name == "done" and last == json.loads(ask()[2])


def test_a_stream_is_one_search(ask, service):
    assert [name for name, _ in events(ask(headers=EVENTS)[2])] == ["text", "done"]
    assert len(service.asked) == 1


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["json", "events"])
@pytest.mark.parametrize(
    "error", [Busy("The queue is full.", 7), TooLarge("Too large."), Forbidden("No."), TooSlow("Late."), BadRequest("What?")]
)
def test_an_error_that_is_known_at_once_has_its_status(ask, service, error, headers):
    service.errors = [error]
    status, found, body = ask(headers=headers)
    assert (status, json.loads(body)) == (error.status, {"error": error.message})
    assert found["Retry-After"] == error.headers.get("Retry-After")


@pytest.mark.parametrize(("error", "again"), [(Busy("Full.", 7), 7), (TooSlow("Too slow."), None)])
def test_an_error_of_later_is_the_last_event(ask, service, error, again):
    service.delay, service.errors = 0.1, [error]
    status, _, body = ask(headers=EVENTS)
    assert status == 200
    assert events(body)[-1] == ("error", {"error": error.message, "status": error.status, "again": again})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": "{"}, "the request should be JSON in UTF-8"),
        ({"body": b'{"text": "\xff"}'}, "the request should be JSON in UTF-8"),
        ({"body": "[" * 100_000}, "the request should be JSON in UTF-8"),
        ({"body": "[]"}, "the request should be a JSON object with text, source, target"),
        ({"body": '{"text": "a", "source": "en"}'}, "the request has no target"),
        ({"headers": {"Content-Type": "text/plain"}}, "the request's Content-Type should be application/json"),
        ({"source": "xx"}, "xx to de: this server does not translate so."),
        ({"source": None}, "source should be the code of a language, not None"),
        ({"text": ["a"]}, "text should be a text, not ['a']"),
        ({"text": "\ud800"}, "the request has half a surrogate pair"),
        ({"alternatives": -1}, "alternatives should be a whole number from 0, not -1"),
        ({"alternatives": True}, "alternatives should be a whole number from 0, not True"),
        ({"markup": ["html"]}, "markup should be html, xml or empty, not ['html']"),
        ({"terms": [["dog"]]}, "terms should be a list of pairs, a term and its translation, not [['dog']]"),
        ({"terms": [["dog", "a"], ["dog", "b"]]}, "'dog' has two translations in the terminology; leave one of them"),
        ({"terms": [["dog", " "]]}, "terminology: 'dog' -> '': a term and its translation should not be blank"),
        ({"formality": "more"}, "the request has 'formality', which should be one of text,"),
    ],
    ids=repr,
)
def test_a_request_that_is_not_understood_is_told_why(ask, change, message):
    status, _, body = ask(**change)
    assert status == 400 and json.loads(body)["error"].startswith(message)
    assert ask()[0] == 200


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["json", "events"])
@pytest.mark.parametrize("wait", [0.1, 1.0])
def test_a_client_that_leaves_is_not_translated_for(running, service, headers, wait):
    service.delay = 3
    connection = http.client.HTTPConnection(running[1].hostname, running[1].port, timeout=30)
    body = json.dumps({"text": "dog", "source": "en", "target": "de"})
    connection.request("POST", "/page/translate", body, {"Content-Type": "application/json"} | headers)
    end = time.monotonic() + 20
    while not service.asked and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(wait)  # before and after the events have begun
    assert not service.left
    connection.sock.close()
    connection.close()
    while "dog" not in service.left and time.monotonic() < end:
        time.sleep(0.01)
    assert "dog" in service.left


def test_without_attention_pages_there_is_none():
    service = FakeService()
    with served(page_routes(service)) as address:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        body = json.dumps({"text": "dog", "source": "en", "target": "de"})
        connection.request("POST", "/page/attention", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)) == (404, {"error": "this server has no attention pages"})
        connection.close()


def test_the_policy_allows_the_pages_own_style_and_script_and_its_own_server_alone(ask):
    status, headers, page = ask("/", method="GET")
    rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert status == 200 and headers["Referrer-Policy"] == "no-referrer" and headers["X-Content-Type-Options"] == "nosniff"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'" and rules["img-src"] == "data:"
    assert rules["require-trusted-types-for"] == "'script'" and rules["trusted-types"] == "'none'"
    for kind in ("style-src", "script-src"):
        assert all(re.fullmatch(r"'sha256-[\w+/=]{44}'", source) for source in rules[kind].split())
    assert page.count("<script") == 2 and page.count("<style") == 1 and "{{" not in page
    assert not re.search(r"https?://|\ssrc=|@import|url\(|\sstyle=|\son\w+=|innerHTML", page)


def test_what_the_page_is_told_cannot_become_markup():
    page = page_html(FakeService([("</script><b>", "de")]), False, 2)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(data)["pairs"] == [["</script><b>", "de"]]
    assert page.count("</script>") == 2
