"""LibreTranslate's API, over HTTP: by its Python client, and by requests that no client would send."""

# ruff: noqa: E402 - the imports below the check are of what it looks for
import http.client
import json
import urllib.error
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NEEDS = "the extra `serve`, with the clients that the extra `test` has, is not installed"
for module in ("starlette", "uvicorn", "python_multipart", "libretranslatepy", "httpx"):
    pytest.importorskip(module, reason=f"{NEEDS}: no {module}")

import httpx
from fake_service import FakeService, served
from libretranslatepy import LibreTranslateAPI

from transformer_jax.errors import UserError
from transformer_jax.serving.errors import Busy, NotFound, TooSlow
from transformer_jax.serving.kept import Kept
from transformer_jax.serving.keys import Keys, key_in_headers
from transformer_jax.serving.libretranslate import libretranslate_routes
from transformer_jax.serving.request_limits import RequestLimits

# Its client leaves the connections of its answers to the collector of garbage.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

SERVICE = FakeService()
LIMITS = RequestLimits(body_bytes=100_000, file_bytes=5_000, texts=3, characters=10_000, alternatives=2)
EN_DE = {"source": "en", "target": "de"}


@pytest.fixture(scope="module")
def url():
    with served(libretranslate_routes(SERVICE, LIMITS)) as address:
        yield address


@pytest.fixture(scope="module")
def locked():
    with served(libretranslate_routes(SERVICE, LIMITS, Keys(["right"]))) as address:
        yield address


def properties_of(schema):
    """The names of all properties in a document of schemas."""
    for name, value in schema.items() if isinstance(schema, dict) else ():
        yield from value if name == "properties" else ()
        yield from properties_of(value)


def error_of(response, code):
    """The sentence of an error, which is all that the body has."""
    assert response.status_code == code, response.text
    (name,) = response.json()
    assert name == "error"
    return response.json()["error"]


class TestClient:
    def test_translates_and_detects_and_lists_languages(self, url):
        client = LibreTranslateAPI(url)
        assert client.translate("the dog sleeps", "en", "de") == "der Hund schläft"
        assert client.translate("der Hund", "auto", "en") == "the dog"
        assert client.detect("the dog")[0] == {"confidence": 100.0, "language": "en"}
        assert client.languages() == [
            {"code": "de", "name": "German", "targets": ["de", "en"]},
            {"code": "en", "name": "English", "targets": ["de", "en"]},
        ]

    def test_sends_its_key(self, locked):
        assert LibreTranslateAPI(locked, api_key="right").translate("dog", "en", "de") == "Hund"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            LibreTranslateAPI(locked, api_key="wrong").translate("dog", "en", "de")
        with pytest.raises(urllib.error.HTTPError, match="400"):
            LibreTranslateAPI(locked).translate("dog", "en", "de")
        assert len(LibreTranslateAPI(locked).languages()) == 2  # needs none


class TestTranslate:
    def test_a_list_comes_back_as_one(self, url):
        response = httpx.post(f"{url}/translate", json={"q": ["dog", "the man"], **EN_DE})
        assert response.json() == {"translatedText": ["Hund", "der Mann"]}

    @pytest.mark.parametrize("form", ["json", "data", "files"])
    def test_the_forms_of_a_body_are_the_same(self, url, form):
        fields = {"q": "the\n\n dog", **EN_DE, "alternatives": "1"}
        body = {name: (None, value) for name, value in fields.items()} if form == "files" else fields
        answer = {"translatedText": "der\n\n Hund", "alternatives": ["der\n\n Hund (0)"]}
        assert httpx.post(f"{url}/translate", **{form: body}).json() == answer

    def test_fields_in_the_address(self, url):
        assert httpx.post(f"{url}/translate", params={"q": "dog", **EN_DE}).json() == {"translatedText": "Hund"}

    def test_alternatives_of_a_list_are_lists(self, url):
        body = {"q": ["dog", "man"], **EN_DE, "alternatives": 2}
        assert httpx.post(f"{url}/translate", json=body).json()["alternatives"] == [
            ["Hund (0)", "Hund (1)"],
            ["Mann (0)", "Mann (1)"],
        ]

    def test_html_keeps_its_elements_and_has_no_alternatives(self, url):
        body = {"q": "<p>the <b>dog</b></p>", **EN_DE, "format": "html", "alternatives": 1}
        assert httpx.post(f"{url}/translate", json=body).json() == {
            "translatedText": "<p>der <b>Hund</b></p>",
            "alternatives": [],
        }

    def test_auto_says_what_it_detected(self, url):
        one = httpx.post(f"{url}/translate", json={"q": "the dog", "source": "auto", "target": "de"}).json()
        assert one == {"translatedText": "der Hund", "detectedLanguage": {"confidence": 100.0, "language": "en"}}
        several = httpx.post(f"{url}/translate", json={"q": ["dog", "man"], "source": "auto", "target": "de"}).json()
        assert several["detectedLanguage"] == [{"confidence": 100.0, "language": "en"}] * 2

    def test_auto_leaves_a_text_only_if_it_is_more_probably_in_the_target_language_than_not(self, url):
        for text, language in (("der Hund dog", "de"), ("der dog", "en"), ("42", "en")):
            answer = httpx.post(f"{url}/translate", json={"q": text, "source": "auto", "target": "de"}).json()
            assert answer["detectedLanguage"]["language"] == language, text

    def test_a_language_into_itself_leaves_the_text(self, url):
        assert httpx.post(f"{url}/translate", json={"q": "der Hund", "source": "de", "target": "de"}).json() == {
            "translatedText": "der Hund"
        }

    def test_variants_and_capitals_of_codes(self, url):
        body = {"q": "dog", "source": "EN-us", "target": "de-AT"}
        assert httpx.post(f"{url}/translate", json=body).json() == {"translatedText": "Hund"}

    def test_control_characters_come_back(self, url):
        assert httpx.post(f"{url}/translate", json={"q": "dog\x00\x1b \x7f", **EN_DE}).json() == {
            "translatedText": "Hund\x00\x1b \x7f"
        }


UNFINISHED = b"--x\r\nContent-Disposition: form-data; name=q\r\n\r\ndog"
BAD_BODIES = [
    ({"json": {**EN_DE}}, "Invalid request: missing q parameter"),
    ({"json": {"q": "", **EN_DE}}, "Invalid request: missing q parameter"),
    ({"json": {"q": [], **EN_DE}}, "Invalid request: missing q parameter"),
    ({"json": {"q": None, **EN_DE}}, "Invalid request: missing q parameter"),
    ({"json": {"q": "dog", "target": "de"}}, "Invalid request: missing source parameter"),
    ({"data": {"q": "dog", "source": "en", "target": ""}}, "Invalid request: missing target parameter"),
    ({"json": {"q": "dog", "source": "zz", "target": "de"}}, "zz is not supported"),
    ({"json": {"q": "dog", "source": "en", "target": "zz"}}, "zz is not supported"),
    ({"json": {"q": "dog", "source": "z" * 10_000, "target": "de"}}, f"{'z' * 40} is not supported"),
    ({"json": {"q": "dog", **EN_DE, "format": "markdown"}}, "markdown format is not supported"),
    ({"json": {"q": "dog", **EN_DE, "alternatives": "x"}}, "Invalid request: alternatives parameter is not a number"),
    ({"json": {"q": "dog", **EN_DE, "alternatives": True}}, "Invalid request: alternatives parameter is not a number"),
    ({"json": {"q": "dog", **EN_DE, "alternatives": 3}}, "Invalid request: alternatives parameter must be <= 2"),
    ({"json": {"q": ["dog"] * 4, **EN_DE}}, "Invalid request: request (4) exceeds text limit (3)"),
    ({"json": {"q": "d" * 10_001, **EN_DE}}, "Invalid request: request (10001) exceeds text limit (10000)"),
    ({"json": {"q": 7, **EN_DE}}, "'q' should be text or a list of texts, found a number."),
    ({"json": {"q": ["dog", {}], **EN_DE}}, "'q' should be a list of texts, found an object."),
    ({"json": {"q": "dog", "source": ["en"], "target": "de"}}, "'source' should be text, found a list."),
    ({"json": {"q": "dog", **EN_DE, "fromat": "html"}}, "Parameter 'fromat' is not known; did you mean format?"),
    ({"data": {"q": ["dog", "man"], **EN_DE}}, "'q' is there 2 times; once is expected."),
    ({"json": ["dog"]}, "The body should be an object of JSON, with the fields by name."),
    ({"content": b'{"q": "dog"', "json_type": True}, "The body is no JSON: line 1, column "),
    ({"content": b'{"q": "a\x01b"}', "json_type": True}, "The body is no JSON: line 1, column "),
    ({"content": b'{"q": NaN}', "json_type": True}, "The body is no JSON: NaN is no number of JSON."),
    ({"content": b'{"q": 1, "q": 2}', "json_type": True}, "The body is no JSON: 'q' is there more than once."),
    ({"content": b"[" * 90_000, "json_type": True}, "The body is JSON with too many values in each other."),
    ({"content": b'{"q": ' + b"9" * 9000 + b"}", "json_type": True}, "The body is no JSON: "),
    ({"content": b'{"q": "\\ud800", "source": "en", "target": "de"}', "json_type": True}, "'q' has half of a surrogate pair"),
    ({"content": b'{"q": "\xff"}', "json_type": True}, "The body should be UTF-8; its byte 8 is not."),
    ({"data": {}, "content": b"q=%ff", "form_type": True}, "The body has escapes that are not UTF-8."),
    ({"content": b"q=\xff", "form_type": True}, "The body should be UTF-8; its byte 3 is not."),
    ({"content": b"dog"}, "The body's Content-Type should be application/json, "),
    ({"content": b"dog", "headers": {"Content-Type": "multipart/form-data"}}, "The body is no multipart/form-data: "),
    (
        {"content": UNFINISHED, "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        "The body is no multipart/form-data: its last boundary is missing.",
    ),
    (
        {"content": b"{}", "headers": {"Content-Type": "application/json; charset=latin-1"}},
        "The body's charset should be utf-8.",
    ),
    ({"content": b"a&" * 1001, "form_type": True}, "The body has more than 1000 fields."),
    ({"files": [("q", (None, "a"))] * 1001}, "The body is no multipart/form-data: it has more than 1000 fields"),
    ({"json": {}, "headers": {"Content-Encoding": "gzip"}}, "The body is compressed, which is not read"),
]


class TestErrors:
    @pytest.mark.parametrize(("body", "sentence"), BAD_BODIES)
    def test_a_bad_body_has_one_sentence(self, url, body, sentence):
        body = dict(body)
        for name, media_type in (("json_type", "application/json"), ("form_type", "application/x-www-form-urlencoded")):
            if body.pop(name, False):
                body["headers"] = {"Content-Type": media_type}
                body.pop("data", None)
        error = error_of(httpx.post(f"{url}/translate", **body), 400)
        assert error.startswith(sentence)
        assert "\n" not in error and len(error) < 200

    def test_a_body_that_is_too_large(self, url):
        assert error_of(httpx.post(f"{url}/translate", json={"q": "d" * 100_000}), 413).startswith("The request has more than")

    def test_a_stream_is_read_no_further_than_the_limit(self, url):
        """The server answers although the body, which says no length, has not ended."""
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.putrequest("POST", "/translate")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(11):
            connection.send(b"2710\r\n" + b"[" * 10_000 + b"\r\n")
        response = connection.getresponse()
        assert (response.status, "100,000 bytes" in json.load(response)["error"]) == (413, True)
        connection.close()

    def test_a_client_that_leaves_in_its_body_changes_nothing(self, url):
        for _ in range(5):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
            connection.putrequest("POST", "/translate")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b'{"q": ')
            connection.close()
        assert httpx.post(f"{url}/translate", json={"q": "dog", **EN_DE}).status_code == 200

    def test_a_full_queue_and_a_slow_one(self, url):
        SERVICE.errors = [Busy("The queue is full.", 7), TooSlow("It took too long.")]
        response = httpx.post(f"{url}/translate", json={"q": "dog", **EN_DE})
        assert (error_of(response, 503), response.headers["retry-after"]) == ("The queue is full.", "7")
        assert error_of(httpx.post(f"{url}/translate", json={"q": "dog", **EN_DE}), 504) == "It took too long."

    def test_a_bug_is_logged_without_the_text(self, url, caplog):
        SERVICE.errors = [RuntimeError("a bug with a secret")]
        response = httpx.post(f"{url}/translate", json={"q": "a secret", **EN_DE})
        assert error_of(response, 500) == "Internal error; the server's log says where."
        assert "RuntimeError" in caplog.text and "in translate" in caplog.text and "a secret" not in caplog.text

    def test_elements_too_deep_in_each_other(self, url):
        body = {"q": "<b>" * 1000 + "dog" + "</b>" * 1000, **EN_DE, "format": "html"}
        assert "deep" in error_of(httpx.post(f"{url}/translate", json=body), 400)

    def test_an_element_with_a_long_name_is_html(self, url):
        name = "b" * 9_000
        body = {"q": f"<{name}>dog</{name}>"[: LIMITS.characters], **EN_DE, "format": "html"}
        assert httpx.post(f"{url}/translate", json=body).json() == {"translatedText": f"<{name}>Hund</{name}>"}

    def test_keys(self, locked):
        body = {"q": "dog", **EN_DE}
        assert error_of(httpx.post(f"{locked}/translate", json=body), 400).startswith("Please contact the server operator")
        assert error_of(httpx.post(f"{locked}/translate", json={**body, "api_key": ""}), 400).startswith("Please contact")
        assert error_of(httpx.post(f"{locked}/detect", data={"q": "dog", "api_key": "wrong"}), 403) == "Invalid API key"
        assert error_of(httpx.post(f"{locked}/translate", json={**body, "api_key": 7}), 400).startswith("'api_key' should be")
        header = {"Authorization": "Bearer right"}
        assert httpx.post(f"{locked}/translate", json=body, headers=header).json() == {"translatedText": "Hund"}
        assert httpx.get(f"{locked}/frontend/settings").json()["keyRequired"] is True

    def test_other_methods_and_addresses(self, url):
        assert httpx.get(f"{url}/translate").status_code == 405
        assert httpx.post(f"{url}/health").status_code == 405
        assert error_of(httpx.post(f"{url}/suggest"), 403) == "Suggestions are disabled on this server."


class TestDetect:
    def test_probable_languages_come_first(self, url):
        found = httpx.post(f"{url}/detect", json={"q": "the dog der"}).json()
        assert found == [{"confidence": 67.0, "language": "en"}, {"confidence": 33.0, "language": "de"}]

    def test_what_has_no_language_has_no_confidence(self, url):
        assert httpx.post(f"{url}/detect", data={"q": "42"}).json()[0]["confidence"] == 0.0

    def test_a_text_is_needed(self, url):
        assert error_of(httpx.post(f"{url}/detect"), 400) == "Invalid request: missing q parameter"


class TestFiles:
    def translated(self, url, name, content, fields=EN_DE):
        answer = httpx.post(f"{url}/translate_file", files={"file": (name, content)}, data=fields)
        assert answer.status_code == 200, answer.text
        return httpx.get(answer.json()["translatedFileUrl"])

    def test_text(self, url):
        download = self.translated(url, "my letter.txt", b"the dog\r\n\r\n  sleeps\n")
        assert download.content.decode() == "der Hund\r\n\r\n  schläft\n"
        assert download.headers["content-type"] == "text/plain; charset=utf-8"
        assert download.headers["content-disposition"] == "attachment; filename*=utf-8''my_letter_de.txt"

    def test_html_and_a_byte_order_mark(self, url):
        download = self.translated(url, "page.HTML", b"\xef\xbb\xbf<p>the <i>dog</i>", {"source": "auto", "target": "de"})
        assert download.content == "\ufeff<p>der <i>Hund</i></p>".encode()
        assert download.headers["content-type"].startswith("text/html")

    def test_a_name_cannot_leave_its_place(self, url):
        download = self.translated(url, '../..\\a"\r\nb: c/.txt', b"dog")
        assert download.content == b"Hund"
        assert "\n" not in download.headers["content-disposition"]

    @pytest.mark.parametrize(
        ("files", "fields", "sentence"),
        [
            ({}, EN_DE, "Invalid request: missing file parameter"),
            ({"file": ("a.txt", b"dog")}, {"source": "en"}, "Invalid request: missing target parameter"),
            ({"file": ("a.docx", b"dog")}, EN_DE, "Invalid request: file format not supported"),
            ({"file": ("a", b"dog")}, EN_DE, "Invalid request: file format not supported"),
            ({"file": ("a.txt", b"dog\xff")}, EN_DE, "The file should be UTF-8; its byte 4 is not."),
            ({"file": ("a.txt", b"dog")}, {"source": "en", "target": "xx"}, "xx is not supported"),
        ],
    )
    def test_bad_requests(self, url, files, fields, sentence):
        assert error_of(httpx.post(f"{url}/translate_file", files=files, data=fields), 400) == sentence

    def test_a_file_that_is_too_large(self, url):
        response = httpx.post(f"{url}/translate_file", files={"file": ("a.txt", b"d" * 6000)}, data=EN_DE)
        assert "5,000 bytes" in error_of(response, 413)

    def test_a_file_that_is_not_there(self, url):
        assert error_of(httpx.get(f"{url}/download_file/x.a_de.txt"), 404) == "Translated file not found"


class TestPages:
    def test_settings_and_health(self, url):
        settings = httpx.get(f"{url}/frontend/settings").json()
        assert settings["charLimit"] == 10_000
        assert settings["language"]["source"] == {"code": "auto", "name": "Auto Detect"}
        assert settings["supportedFilesFormat"] == [".txt", ".html", ".htm"]
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}

    def test_the_spec_has_the_addresses_that_are_served(self, url):
        paths = httpx.get(f"{url}/spec").json()["paths"]
        described = {(path, method.upper()) for path, methods in paths.items() for method in methods}
        served = {(route.path, min(route.methods - {"HEAD"})) for route in libretranslate_routes(SERVICE, LIMITS)}
        assert described == served

    def test_the_spec_has_the_fields_that_are_read(self, url):
        for path, methods in httpx.get(f"{url}/spec").json()["paths"].items():
            content = methods.get("post", {}).get("requestBody", {}).get("content", {})
            for media_type, described in content.items():
                properties, required = described["schema"]["properties"], described["schema"]["required"]
                form = "files" if media_type.startswith("multipart") else "json" if "json" in media_type else "data"
                values = {"q": "dog", "file": "dog", "source": "en", "target": "de", "format": "text", "alternatives": "1"}
                body = {name: values.get(name, "key") for name in properties}
                for left_out in (None, *required):
                    fields = {name: value for name, value in body.items() if name != left_out}
                    if form == "files":
                        fields = {name: ("a.txt" if name == "file" else None, value) for name, value in fields.items()}
                    response = httpx.post(f"{url}{path}", **{form: fields})
                    assert response.status_code == (400 if left_out else 200), (path, media_type, left_out, response.text)

    def test_the_reference_has_what_the_spec_has(self, url):
        page = (Path(__file__).parents[1] / "docs" / "reference" / "server_api.md").read_text(encoding="utf-8")
        spec = httpx.get(f"{url}/spec").json()
        names = set(properties_of(spec))
        assert {"alternatives", "detectedLanguage", "charLimit", "targets", "error"} <= names
        assert not [name for name in names - {"error"} if f"`{name}`" not in page]
        for path in spec["paths"]:
            assert path.replace("{filename}", "NAME") in page

    def test_answers_have_the_properties_of_the_spec(self, url):
        paths = httpx.get(f"{url}/spec").json()["paths"]
        for path in ("/health", "/frontend/settings"):
            schema = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            assert set(httpx.get(f"{url}{path}").json()) == set(schema["required"])


class TestKept:
    def test_values_are_forgotten_after_their_time(self):
        now = [0.0]
        kept = Kept(10, 100, "file", clock=lambda: now[0])
        identifier = kept.put("value", 60)
        now[0] = 9
        assert kept.get(identifier) == "value"  # and from now on ten seconds more
        now[0] = 18
        with pytest.raises(Busy) as error:
            kept.put("another", 60)
        assert error.value.headers == {"Retry-After": "1"}
        now[0] = 20
        with pytest.raises(NotFound, match="File not found"):
            kept.get(identifier)
        assert kept.get(kept.put("another", 1000)) == "another"


class TestKeys:
    def test_a_file_of_keys(self, tmp_path):
        path = tmp_path / "keys"
        path.write_text("# of the office\none\n\n two \n")
        keys = Keys.read(str(path), ["three"])
        assert [keys.allows(key) for key in ("one", "two", "three", "# of the office", "", None)] == [True] * 3 + [False] * 3

    @pytest.mark.parametrize(("text", "sentence"), [("# none\n", "has no API keys"), ("one\ntwo words\n", "line 2")])
    def test_a_file_that_is_wrong(self, tmp_path, text, sentence):
        path = tmp_path / "keys"
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            Keys.read(str(path))

    def test_headers(self):
        for header, key in (("DeepL-Auth-Key  k:fx", "k:fx"), ("bearer k", "k"), ("Basic k", None), ("Bearer", None)):
            assert key_in_headers({"authorization": header}) == key
        assert key_in_headers({}) is None
