"""DeepL's API, over HTTP: by its official Python client, and by requests that it would not send."""

# ruff: noqa: E402 - the imports below the check are of what it looks for
import io
import json
import re
import threading
from pathlib import Path

import pytest

NEEDS = "the extra `serve`, with the clients that the extra `test` has, is not installed"
for module in ("starlette", "uvicorn", "python_multipart", "deepl", "httpx"):
    pytest.importorskip(module, reason=f"{NEEDS}: no {module}")

import deepl
import httpx
from deepl.api_data import MultilingualGlossaryDictionaryEntries
from fake_service import FakeService, served

from transformer_jax.errors import UserError
from transformer_jax.serving import deepl as deepl_module
from transformer_jax.serving import deepl_documents as documents_module
from transformer_jax.serving import deepl_glossaries as glossaries_module
from transformer_jax.serving.deepl import deepl_routes
from transformer_jax.serving.errors import Busy, TooSlow
from transformer_jax.serving.glossaries import Glossaries
from transformer_jax.serving.glossary_entries import read_entries
from transformer_jax.serving.keys import Keys
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.service import LanguagePair

SERVICE = FakeService()
LIMITS = RequestLimits(body_bytes=40_000, file_bytes=60_000, texts=50, characters=20_000)
DE = {"text": ["dog"], "target_lang": "DE"}
NO_GLOSSARY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def url():
    with served(deepl_routes(SERVICE, LIMITS)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    with_key = deepl.DeepLClient("any", server_url=url)
    yield with_key
    with_key.close()


@pytest.fixture(scope="module")
def locked():
    with served(deepl_routes(SERVICE, LIMITS, Keys(["right"]))) as address:
        yield address


@pytest.fixture
def glossary(client):
    made = client.create_glossary("animals", "EN", "DE", {"dog": "Dackel", "big dog": "Dogge"})
    yield made
    client.delete_glossary(made)


def message_of(response, code):
    assert response.status_code == code, response.text
    assert set(response.json()) <= {"message", "detail"}
    return response.json()["message"]


def options_of(client, **options):
    """The options that the service is asked with for a request."""
    client.translate_text("dog", target_lang="DE", **options)
    return SERVICE.asked[-1][2]


class TestText:
    def test_one_text_and_several(self, client):
        result = client.translate_text("the dog sleeps", target_lang="DE")
        assert (result.text, result.detected_source_lang, result.billed_characters) == ("der Hund schläft", "EN", 14)
        results = client.translate_text(["dog", "\nthe  man\r\n", ""], source_lang="EN", target_lang="DE")
        assert [result.text for result in results] == ["Hund", "\nder  Mann\r\n", ""]

    def test_a_variant_of_the_target(self, client):
        assert client.translate_text("der Hund", source_lang="DE", target_lang="EN-US").text == "the dog"
        assert client.translate_text("der Hund", target_lang=deepl.Language.ENGLISH_BRITISH).detected_source_lang == "DE"

    def test_each_text_has_its_own_language(self, client):
        """What is in the target language already stays as it is."""
        results = client.translate_text(["the dog", "der Hund", "man"], target_lang="DE")
        assert [(result.text, result.detected_source_lang) for result in results] == [
            ("der Hund", "EN"),
            ("der Hund", "DE"),
            ("Mann", "EN"),
        ]

    def test_text_that_may_be_in_any_language_is_translated(self, client):
        results = client.translate_text(["42", "der dog", "der Hund dog"], target_lang="DE")
        assert [result.detected_source_lang for result in results] == ["EN", "EN", "DE"]

    @pytest.mark.parametrize(
        ("mode", "sentences", "lines"),
        [(None, True, True), ("1", True, True), (deepl.SplitSentences.NO_NEWLINES, True, False), ("0", False, False)],
    )
    def test_splitting(self, client, mode, sentences, lines):
        options = options_of(client, split_sentences=mode)
        assert (options.split_sentences, options.split_lines) == (sentences, lines)

    def test_html(self, client):
        result = client.translate_text("<p>the <b>dog</b><br>man", target_lang="DE", tag_handling="html", ignore_tags="i")
        assert result.text == "<p>der <b>Hund</b><br>Mann</p>"
        assert SERVICE.asked[-1][2].ignore_tags == ("i",)
        assert SERVICE.asked[-1][2].split_lines is False  # nonewlines is the default of HTML

    def test_xml(self, client):
        names = dict(ignore_tags=["x", "y"], splitting_tags="a,b", non_splitting_tags=["c"])
        options = options_of(client, tag_handling="xml", tag_handling_version="v2", **names)
        assert (options.markup, options.ignore_tags) == ("xml", ("x", "y"))
        assert (options.splitting_tags, options.non_splitting_tags) == (("a", "b"), ("c",))

    def test_outline_detection_off(self, client):
        """Only the splitting tags separate sentences then."""
        text = "<doc><p>the dog</p><seg>man</seg></doc>"
        client.translate_text(text, target_lang="DE", tag_handling="xml", outline_detection=False, splitting_tags="seg")
        options = SERVICE.asked[-1][2]
        assert (options.splitting_tags, options.non_splitting_tags) == (("seg",), ("doc", "p"))

    def test_what_is_accepted_without_effect(self, client):
        for formality in ("default", "prefer_more", "prefer_less"):
            rest = dict(preserve_formatting=True, context="a kennel", extra_body_parameters={"enable_beta_languages": True})
            assert client.translate_text("dog", target_lang="DE", formality=formality, **rest).text == "Hund"

    def test_the_type_of_the_model_is_answered(self, client):
        result = client.translate_text("dog", target_lang="DE", model_type=deepl.ModelType.PREFER_QUALITY_OPTIMIZED)
        assert result.model_type_used == "quality_optimized"

    def test_forms(self, url):
        body = {
            "text": ["the dog", "man"],
            "target_lang": "de",
            "ignore_tags": "a,b",
            "tag_handling": "xml",
            "split_sentences": "0",
        }
        expected = [
            {"detected_source_language": "EN", "text": "der Hund", "tag_handling_version": "v2"},
            {"detected_source_language": "EN", "text": "Mann", "tag_handling_version": "v2"},
        ]
        assert httpx.post(f"{url}/v2/translate", data=body).json() == {"translations": expected}
        assert SERVICE.asked[-1][2].ignore_tags == ("a", "b")
        parts = [(name, (None, value)) for name, some in body.items() for value in ([some] if isinstance(some, str) else some)]
        assert httpx.post(f"{url}/v2/translate", files=parts).json() == {"translations": expected}

    def test_a_queue_that_is_full_for_a_moment(self, client):
        SERVICE.errors = [Busy("The queue is full.", 1)]
        assert client.translate_text("dog", target_lang="DE").text == "Hund"  # the client asks again


class TestAbout:
    def test_languages(self, client):
        assert [(each.code, each.name) for each in client.get_source_languages()] == [("DE", "German"), ("EN", "English")]
        targets = client.get_target_languages()
        assert [(each.code, each.name) for each in targets] == [
            ("DE", "German"),
            ("EN-GB", "English (British)"),
            ("EN-US", "English (American)"),
        ]
        assert not any(each.supports_formality for each in targets)

    def test_usage_counts_characters(self, client):
        before = client.get_usage()
        client.translate_text(["four", "six"], source_lang="EN", target_lang="DE")
        after = client.get_usage()
        assert after.character.count - before.character.count == 7
        assert not after.any_limit_reached

    def test_wrong_type_of_languages(self, url):
        assert message_of(httpx.get(f"{url}/v2/languages", params={"type": "x"}), 400).startswith(
            "Parameter 'type' is invalid."
        )


class TestReference:
    PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "server_api.md").read_text(encoding="utf-8")

    def test_every_address_is_on_the_page(self):
        for route in deepl_routes(SERVICE, LIMITS):
            path = re.sub(r"\{.*?\}", "ID", route.path)
            methods = route.methods - {"HEAD"}
            rows = [line for line in self.PAGE.splitlines() if line.startswith("| `") and f"{path}`" in line.split(" | ")[0]]
            assert any(methods & set(re.findall("[A-Z]{3,}", row.split(" | ")[0])) for row in rows), route.path

    def test_every_field_is_on_the_page(self):
        for fields in (deepl_module._FIELDS, documents_module._FIELDS, glossaries_module._DICTIONARY_FIELDS):
            assert not [name for name in fields if f"`{name}`" not in self.PAGE]

    def test_every_key_of_answers_is_on_the_page(self, url, client, glossary):
        body = {**DE, "tag_handling": "xml", "show_billed_characters": True, "model_type": "latency_optimized"}
        answers = [httpx.post(f"{url}/v2/translate", json=body).json()]
        for path in ("v2/usage", "v2/languages?type=target", "v2/glossary-language-pairs", "v2/glossaries", "v3/glossaries"):
            answers.append(httpx.get(f"{url}/{path}").json())
        handle = client.translate_document_upload("dog", filename="a.txt", target_lang="DE")
        key = {"document_key": handle.document_key}
        answers.append(httpx.post(f"{url}/v2/document/{handle.document_id}", data=key).json())
        keys = set(re.findall(r'"(\w+)":', json.dumps(answers)))
        assert len(keys) > 15 and not [name for name in keys if f"`{name}`" not in self.PAGE]


class TestKeys:
    def test_the_client_has_the_right_one_or_is_told(self, locked):
        client = deepl.DeepLClient("right", server_url=locked)
        assert client.translate_text("dog", target_lang="DE").text == "Hund"
        wrong = deepl.DeepLClient("wrong", server_url=locked)
        for ask in (wrong.get_usage, wrong.list_glossaries, wrong.get_glossary_languages, wrong.get_target_languages):
            with pytest.raises(deepl.AuthorizationException, match="Authorization failed"):
                ask()
        client.close()
        wrong.close()

    def test_every_address_needs_one(self, locked):
        for route in deepl_routes(SERVICE, LIMITS, Keys(["right"])):
            path = re.sub(r"\{.*?\}", NO_GLOSSARY, route.path)
            response = httpx.request(min(route.methods - {"HEAD"}), f"{locked}{path}")
            assert "DeepL-Auth-Key" in message_of(response, 403), route.path
        assert httpx.get(f"{locked}/v2/usage", headers={"Authorization": "Bearer right"}).status_code == 200
        assert httpx.get(f"{locked}/v2/usage", headers={"Authorization": "right"}).status_code == 403


BAD_FIELDS = [
    ({"text": None}, "Parameter 'text' not specified."),
    ({"text": []}, "Parameter 'text' not specified."),
    ({"text": "dog"}, "'text' should be a list of texts, found text."),
    ({"text": ["dog", 7]}, "'text' should be a list of texts, found a number."),
    ({"text": ["dog", None]}, "Parameter 'text' not specified."),
    ({"text": ["\ud800"]}, "'text' has half of a surrogate pair"),
    ({"target_lang": None}, "Parameter 'target_lang' not specified."),
    ({"target_lang": "FR"}, "Value for 'target_lang' not supported: expected one of DE, EN-GB, EN-US."),
    ({"target_lang": 1}, "'target_lang' should be text, found a number."),
    ({"source_lang": "XX"}, "Value for 'source_lang' not supported: expected one of DE, EN."),
    ({"formality": "more"}, "'formality' is not supported for given 'target_lang'."),
    ({"formality": "rude"}, "Value for 'formality' not supported: expected one of default, "),
    ({"split_sentences": "2"}, "Value for 'split_sentences' not supported: expected one of 0, 1, nonewlines."),
    ({"split_sentences": True}, "Value for 'split_sentences' not supported"),
    ({"tag_handling": "markdown"}, "Value for 'tag_handling' not supported: expected one of xml, html."),
    ({"tag_handling": "xml", "tag_handling_version": "v3"}, "Value for 'tag_handling_version' not supported"),
    ({"tag_handling_version": "v3"}, "Value for 'tag_handling_version' not supported: expected one of v1, v2."),
    ({"ignore_tags": ["x"]}, "'ignore_tags' is for texts with tags: set tag_handling to xml or html."),
    ({"tag_handling": "html", "splitting_tags": ["x"]}, "'splitting_tags', 'non_splitting_tags' and outline_detection=0"),
    ({"tag_handling": "xml", "ignore_tags": {"x": 1}}, "'ignore_tags' should be a list of names, found an object."),
    ({"preserve_formatting": "perhaps"}, "Value for 'preserve_formatting' not supported"),
    ({"outline_detection": 2}, "Value for 'outline_detection' not supported"),
    ({"context": ["a"]}, "'context' should be text, found a list."),
    ({"model_type": "best"}, "Value for 'model_type' not supported"),
    ({"style_id": "x"}, "'style_id' is not supported by this server"),
    ({"custom_instructions": ["x"]}, "'custom_instructions' is not supported by this server"),
    ({"tag_handlng": "xml"}, "Parameter 'tag_handlng' is not known; did you mean tag_handling?"),
    ({"glossary_id": "animals", "source_lang": "EN"}, "Value for 'glossary_id' not supported"),
    ({"glossary_id": NO_GLOSSARY}, "Use of a glossary requires the source_lang parameter to be specified"),
    ({"glossary_ids": [NO_GLOSSARY] * 6, "source_lang": "EN"}, "'glossary_ids' should have at most 5 glossaries."),
    ({"glossary_id": NO_GLOSSARY, "glossary_ids": [NO_GLOSSARY]}, "'glossary_id' and 'glossary_ids' cannot be used together."),
]
BAD_ENTRIES = [
    ({"entries": "dog"}, "Key with the index 0 should have one tab"),
    ({"entries": "a\tb\tc"}, "Key with the index 0 should have one tab"),
    ({"entries": "a\tb\na\tc"}, "Key with the index 1 duplicates key with the index 0"),
    ({"entries": "dog\tHund\nman\t"}, "The translation of the entry with the index 1 is empty"),
    ({"entries": "a\x00\tb"}, "The term of the entry with the index 0 has a control character"),
    ({"entries": "a" * 1025 + "\tb"}, "The term of the entry with the index 0 has more than 1024 bytes"),
    ({"entries": "ice  cream\tEis\nice cream\tGelato"}, "terminology: 'ice cream'"),
    ({"entries": 'a,"b', "entries_format": "csv"}, "Line 1 is no CSV"),
    ({"entries": "a,b,c", "entries_format": "csv"}, "Line 1 has 3 columns"),
]
BAD_GLOSSARIES = [
    *((fields, "Invalid glossary entries provided", detail) for fields, detail in BAD_ENTRIES),
    ({"name": ""}, "Bad request", "Missing or invalid argument: name"),
    ({"name": "x" * 1025}, "Bad request", "Missing or invalid argument: name"),
    ({"entries": ""}, "Bad request", "Missing or invalid argument: entries"),
    ({"target_lang": "fr"}, "Unsupported glossary source and target language pair", "There are en-de, de-en"),
    ({"entries_format": "xml"}, "Value for 'entries_format' not supported: expected one of tsv, csv.", None),
    ({"entries": ["a"]}, "'entries' should be text, found a list.", None),
]
LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><a>&b;</a>'
BAD_MARKUP = [
    ("<a>dog", "line 1"),
    ("dog</a>", "line 1"),
    ("<a>\n<b>dog</a>", "line 2"),
    ("<a>dog\x01</a>", "line 1"),
    (LAUGHS, "a document type with declarations of its own is not read"),
    ("<a>" * 1000 + "dog" + "</a>" * 1000, "deep"),
]


class TestErrors:
    @pytest.mark.parametrize(("fields", "sentence"), BAD_FIELDS)
    def test_a_bad_field_has_one_sentence(self, url, fields, sentence):
        content = json.dumps({**DE, **fields})
        message = message_of(
            httpx.post(f"{url}/v2/translate", content=content, headers={"Content-Type": "application/json"}), 400
        )
        assert message.startswith(sentence)
        assert "\n" not in message and len(message) < 200

    @pytest.mark.parametrize(("text", "sentence"), BAD_MARKUP)
    def test_xml_that_is_not_well_formed(self, url, text, sentence):
        body = {"text": [text], "target_lang": "DE", "tag_handling": "xml"}
        assert sentence in message_of(httpx.post(f"{url}/v2/translate", json=body), 400)

    def test_the_client_tells_what_the_server_said(self, client):
        with pytest.raises(deepl.DeepLException, match="'formality' is not supported for given 'target_lang'"):
            client.translate_text("dog", target_lang="DE", formality="less")
        with pytest.raises(deepl.DeepLException, match="Not found, message: Glossary not found"):
            client.translate_text("dog", source_lang="EN", target_lang="DE", glossary=NO_GLOSSARY)
        with pytest.raises(deepl.DeepLException, match="Value for 'target_lang' not supported"):
            client.translate_text("dog", target_lang="FR")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [(b'{"text": ["dog"', "The body is no JSON"), (b"[]", "The body should be an object"), (b'"\xff"', "should be UTF-8")],
    )
    def test_a_bad_body(self, url, content, sentence):
        response = httpx.post(f"{url}/v2/translate", content=content, headers={"Content-Type": "application/json"})
        assert sentence in message_of(response, 400)

    def test_too_much(self, url):
        assert "51 texts" in message_of(httpx.post(f"{url}/v2/translate", json={"text": ["d"] * 51, "target_lang": "DE"}), 413)
        assert "20001 characters" in message_of(
            httpx.post(f"{url}/v2/translate", json={"text": ["d" * 20_001], "target_lang": "DE"}), 413
        )
        assert "40,000 bytes" in message_of(
            httpx.post(f"{url}/v2/translate", json={"text": ["d" * 10_000_000], "target_lang": "DE"}), 413
        )

    def test_what_the_service_says(self, url):
        SERVICE.errors = [Busy("The queue is full.", 7), TooSlow("It took too long."), RuntimeError("a bug")]
        responses = [httpx.post(f"{url}/v2/translate", json=DE) for _ in range(3)]
        assert message_of(responses[0], 503) == "The queue is full." and responses[0].headers["retry-after"] == "7"
        assert message_of(responses[1], 504) == "It took too long."
        assert message_of(responses[2], 500).startswith("Internal error")


class TestGlossaries:
    def test_create_list_get_use_delete(self, client):
        made = client.create_glossary("animals", "EN", "DE", {"dog": "Dackel", "man": "Herr"})
        assert (made.name, made.ready, made.source_lang, made.target_lang, made.entry_count) == ("animals", True, "EN", "DE", 2)
        assert client.get_glossary(made.glossary_id).creation_time == made.creation_time
        assert [each.glossary_id for each in client.list_glossaries()] == [made.glossary_id]
        assert client.get_glossary_entries(made) == {"dog": "Dackel", "man": "Herr"}
        assert client.translate_text("the dog", source_lang="EN", target_lang="DE", glossary=made).text == "der Dackel"
        assert client.translate_text_with_glossary("the man", made).text == "der Herr"
        client.delete_glossary(made)
        with pytest.raises(deepl.GlossaryNotFoundException):
            client.get_glossary(made.glossary_id)

    def test_pairs(self, client):
        pairs = [(pair.source_lang, pair.target_lang) for pair in client.get_glossary_languages()]
        assert pairs == [("en", "de"), ("de", "en")]

    def test_csv(self, client):
        made = client.create_glossary_from_csv("csv", "EN", "DE", 'dog,"Hund, groß",en,de\nchien,Hund,fr,de\n\n"a ""b""",c\n')
        assert client.get_glossary_entries(made) == {"dog": "Hund, groß", 'a "b"': "c"}
        client.delete_glossary(made)

    def test_several_glossaries_at_once(self, client, glossary):
        other = client.create_glossary("other", "EN", "DE", {"dog": "Wauwau", "man": "Herr"})
        text = client.translate_text("dog man", source_lang="EN", target_lang="DE", glossary_ids=[other, glossary]).text
        assert text == "Wauwau Herr"
        client.delete_glossary(other)

    def test_another_pair_than_the_glossary_has(self, client, glossary):
        with pytest.raises(deepl.DeepLException, match="No dictionary found for language pair de-en in glossary"):
            client.translate_text("Hund", source_lang="DE", target_lang="EN-GB", glossary=glossary.glossary_id)

    @pytest.mark.parametrize(("fields", "message", "detail"), BAD_GLOSSARIES)
    def test_bad_ones(self, url, fields, message, detail):
        body = {"name": "n", "source_lang": "en", "target_lang": "de", "entries": "a\tb", "entries_format": "tsv", **fields}
        response = httpx.post(f"{url}/v2/glossaries", json=body)
        assert message_of(response, 400) == message
        assert response.json().get("detail", "").startswith(detail or "")
        assert httpx.get(f"{url}/v2/glossaries").json() == {"glossaries": []}

    def test_entries_in_another_form(self, url, glossary):
        path = f"{url}/v2/glossaries/{glossary.glossary_id}/entries"
        assert message_of(httpx.get(path, headers={"Accept": "application/json"}), 415).startswith("No supported media type")
        assert httpx.get(path).headers["content-type"].startswith("text/tab-separated-values")

    def test_those_of_version_3(self, client):
        entries = MultilingualGlossaryDictionaryEntries
        made = client.create_multilingual_glossary(
            "both", [entries("EN", "DE", {"dog": "Dackel"}), entries("DE", "EN", {"Hund": "hound"})]
        )
        identifier = made.glossary_id
        assert [(each.source_lang, each.target_lang, each.entry_count) for each in made.dictionaries] == [
            ("EN", "DE", 1),
            ("DE", "EN", 1),
        ]
        assert client.translate_text("Hund", source_lang="DE", target_lang="EN-GB", glossary=made).text == "hound"
        assert client.list_glossaries() == []  # version 2 has no place for two pairs
        with pytest.raises(deepl.GlossaryNotFoundException, match="ask /v3/glossaries"):
            client.get_glossary(identifier)
        client.update_multilingual_glossary_name(made, "new name")
        client.update_multilingual_glossary_dictionary(identifier, entries("EN", "DE", {"dog": "Köter", "man": "Herr"}))
        client.replace_multilingual_glossary_dictionary(identifier, entries("DE", "EN", {"Mann": "bloke"}))
        found = client.get_multilingual_glossary(identifier)
        assert found.name == "new name"
        assert {each.source_lang: each.entry_count for each in found.dictionaries} == {"EN": 2, "DE": 1}
        (dictionary,) = client.get_multilingual_glossary_entries(made, "EN", "DE").dictionaries
        assert dictionary.entries == "dog\tKöter\nman\tHerr"
        client.delete_multilingual_glossary_dictionary(identifier, source_lang="DE", target_lang="EN")
        with pytest.raises(deepl.GlossaryNotFoundException, match="Dictionary not found"):
            client.get_multilingual_glossary_entries(made, "DE", "EN")
        assert [each.glossary_id for each in client.list_glossaries()] == [identifier]  # it has one pair now
        client.delete_multilingual_glossary(made)
        assert client.list_multilingual_glossaries() == []

    def test_bad_ones_of_version_3(self, url):
        good = {"source_lang": "en", "target_lang": "de", "entries": "a\tb"}
        for dictionaries, sentence in [
            ([], "Glossary dictionaries must be provided"),
            ("a", "'dictionaries' should be a list of objects, in a body of JSON."),
            ([good, good], "There are two dictionaries for the pair en-de; make them one."),
            ([{**good, "extra": 1}], "Parameter 'extra' is not known"),
        ]:
            response = httpx.post(f"{url}/v3/glossaries", json={"name": "n", "dictionaries": dictionaries})
            assert message_of(response, 400).startswith(sentence)
        response = httpx.patch(f"{url}/v3/glossaries/{NO_GLOSSARY}", json={"name": "n"})
        assert message_of(response, 404) == "Glossary not found"


class TestGlossaryFolder:
    PAIR = LanguagePair("en", "de")

    def test_a_restart_finds_them_again(self, tmp_path):
        folder = str(tmp_path / "glossaries")
        with served(deepl_routes(SERVICE, LIMITS, glossaries=Glossaries(folder))) as address:
            client = deepl.DeepLClient("any", server_url=address)
            kept = client.create_glossary("kept", "EN", "DE", {"dog": "Dackel"})
            gone = client.create_glossary("gone", "EN", "DE", {"dog": "Dackel"})
            client.update_multilingual_glossary_name(kept.glossary_id, "Größe")
            client.delete_glossary(gone)
            client.close()
        with served(deepl_routes(SERVICE, LIMITS, glossaries=Glossaries(folder))) as address:
            client = deepl.DeepLClient("any", server_url=address)
            (found,) = client.list_glossaries()
            assert (found.name, found.glossary_id, found.creation_time) == ("Größe", kept.glossary_id, kept.creation_time)
            assert client.translate_text("dog", source_lang="EN", target_lang="DE", glossary=found).text == "Dackel"
            client.close()

    def test_a_file_that_is_half_written_is_passed_over_and_a_broken_one_is_told(self, tmp_path):
        (tmp_path / f"{NO_GLOSSARY}.json.partial").write_text("{")
        assert Glossaries(str(tmp_path)).list() == []
        (tmp_path / f"{NO_GLOSSARY}.json").write_text("{")
        with pytest.raises(UserError, match=f"{NO_GLOSSARY}.json: is no glossary of this server"):
            Glossaries(str(tmp_path))

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="--glossaries="):
            Glossaries(str(tmp_path / "file"))

    def test_names_of_glossaries_lead_to_no_other_files(self, url, tmp_path):
        for name in ("..%5C..%5Cetc", "%00", "x" * 5000):
            assert message_of(httpx.get(f"{url}/v3/glossaries/{name}"), 404)

    def test_there_are_at_most_a_thousand(self, url, monkeypatch):
        monkeypatch.setattr("transformer_jax.serving.glossaries._MOST", 0)
        body = {"name": "n", "source_lang": "en", "target_lang": "de", "entries": "a\tb"}
        assert "there may be no more" in message_of(httpx.post(f"{url}/v2/glossaries", data=body), 456)

    def test_line_ends_of_entries(self):
        assert read_entries("a\tb\r\n\r\nc d\t e ", "tsv", self.PAIR) == {"a": "b", "c d": "e"}
        assert read_entries("a,b\r\n\r\nc d, e \r\n", "csv", self.PAIR) == {"a": "b", "c d": "e"}


class TestDocuments:
    def test_a_text_file(self, client, tmp_path):
        source, target = tmp_path / "letter.txt", tmp_path / "brief.txt"
        source.write_bytes(b"\xef\xbb\xbfthe dog\r\n\r\n  sleeps\n")
        status = client.translate_document_from_filepath(source, target, target_lang="DE")
        assert target.read_bytes().decode() == "\ufeffder Hund\r\n\r\n  schläft\n"
        assert (status.done, status.billed_characters) == (True, 20)

    def test_a_page_with_a_glossary(self, client, glossary):
        output = io.BytesIO()
        page = "<!DOCTYPE html><title>man</title><p>the <b>dog</b></p>"
        names = dict(filename="page.html", source_lang="EN", target_lang="DE", glossary=glossary)
        client.translate_document(page, output, **names)
        assert output.getvalue().decode() == "<!DOCTYPE html><title>Mann</title><p>der <b>Dackel</b></p>"

    def test_the_result_comes_down_once_and_is_billed_then(self, client):
        handle = client.translate_document_upload("dog", filename="a.txt", target_lang="DE")
        client.translate_document_wait_until_done(handle)
        before = client.get_usage().character.count
        output = io.BytesIO()
        client.translate_document_download(handle, output)
        assert (output.getvalue(), client.get_usage().character.count - before) == (b"Hund", 3)
        with pytest.raises(deepl.DeepLException, match="Not found"):
            client.translate_document_download(handle, output)

    def test_a_wrong_key_finds_nothing(self, url, client):
        handle = client.translate_document_upload("dog", filename="a.txt", target_lang="DE")
        for path in ("", "/result"):
            address = f"{url}/v2/document/{handle.document_id}{path}"
            assert message_of(httpx.post(address, json={"document_key": "0" * 64}), 404) == "Document not found"
            assert message_of(httpx.post(address, data={"document_key": "ä"}), 404) == "Document not found"
            assert message_of(httpx.post(address), 400) == "Parameter 'document_key' not specified."

    def test_a_full_queue_is_waited_for(self, url, client):
        SERVICE.errors = [Busy("The queue is full.", 1)] * 2
        handle = client.translate_document_upload("dog", filename="a.txt", target_lang="DE")
        key, states = {"document_key": handle.document_key}, []
        while len(states) < 30 and "done" not in states:
            states.append(httpx.post(f"{url}/v2/document/{handle.document_id}", data=key).json()["status"])
        assert "queued" in states and states[-1] == "done"

    def test_a_long_text_is_translated_part_by_part(self, client):
        text = "the dog\n\n  sleeps\r\n" * 500
        handle = client.translate_document_upload(text, filename="a.txt", source_lang="EN", target_lang="DE")
        assert client.translate_document_wait_until_done(handle).billed_characters == len(text)
        parts = [text for text, _, _ in SERVICE.asked[-3:]]
        assert "".join(parts) == text and all(part.endswith("\n") for part in parts)
        output = io.BytesIO()
        client.translate_document_download(handle, output)
        assert output.getvalue().decode() == "der Hund\n\n  schläft\r\n" * 500

    def test_one_that_is_under_way_says_how_long_it_takes(self, url, client):
        SERVICE.gate = threading.Semaphore(0)
        try:
            handle = client.translate_document_upload("the dog\n" * 1000, filename="a.txt", source_lang="EN", target_lang="DE")
            address, key = f"{url}/v2/document/{handle.document_id}", {"document_key": handle.document_key}
            assert httpx.post(address, data=key).json() == {"document_id": handle.document_id, "status": "translating"}
            SERVICE.gate.release()
            for state in (httpx.post(address, data=key).json() for _ in range(30)):
                if "seconds_remaining" in state:
                    break
            assert state["status"] == "translating" and state["seconds_remaining"] > 0
            assert message_of(httpx.post(f"{address}/result", data=key), 503) == "Document translation is not done"
        finally:
            SERVICE.gate.release(10)
            SERVICE.gate = None
        assert client.translate_document_wait_until_done(handle).done

    def test_a_failure_is_told(self, client):
        bug = "Internal error; the server's log says where."
        for error, sentence in ((TooSlow("It took too long."), "It took too long."), (RuntimeError("a bug"), bug)):
            SERVICE.errors = [error]
            handle = client.translate_document_upload("dog", filename="a.txt", source_lang="EN", target_lang="DE")
            status = client.translate_document_wait_until_done(handle)
            assert (status.ok, status.error_message) == (False, sentence)

    @pytest.mark.parametrize(
        ("name", "content", "fields", "sentence"),
        [
            ("a.docx", b"dog", {}, "'a.docx' has no format that is supported: expected .txt, .html, .htm."),
            ("a.txt", b"\xff", {}, "The file should be UTF-8; its byte 1 is not."),
            ("a.txt", b"dog", {"output_format": "pdf"}, "output_format not supported"),
            ("a.txt", b"dog", {"source_lang": "DE"}, "Source and target language are equal."),
            ("a.txt", b"dog", {"target_lang": "XX"}, "Value for 'target_lang' not supported"),
            ("a.txt", b"dog", {"formality": "more"}, "'formality' is not supported for given 'target_lang'."),
            ("a.txt", b"dog", {"style_id": "x"}, "'style_id' is not supported by this server"),
        ],
    )
    def test_bad_ones(self, url, name, content, fields, sentence):
        response = httpx.post(f"{url}/v2/document", files={"file": (name, content)}, data={"target_lang": "DE", **fields})
        assert message_of(response, 400).startswith(sentence)

    def test_no_file_and_one_that_is_too_large(self, url):
        assert message_of(httpx.post(f"{url}/v2/document", data=DE), 400).startswith("Parameter 'text' is not known")
        assert (
            message_of(httpx.post(f"{url}/v2/document", data={"target_lang": "DE"}), 400) == "Parameter 'file' not specified."
        )
        response = httpx.post(f"{url}/v2/document", files={"file": ("a.txt", b"d" * 61_000)}, data={"target_lang": "DE"})
        assert "60,000 bytes" in message_of(response, 413)
