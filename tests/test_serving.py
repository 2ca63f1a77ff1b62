"""The server as a whole: it translates as the model does, whatever comes at the same time, goes away or breaks."""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import FAMILIES, letters, quick_config, random_parameters, tiny_model

pytest.importorskip("starlette", reason="needs the extra serve")
from fake_service import served

from transformer_jax.cli.serve import _protection as protection_of_job
from transformer_jax.cli.serving_job import ServingJob
from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.serving.app import make_app
from transformer_jax.serving.errors import BadRequest, TooSlow
from transformer_jax.serving.glossaries import Glossaries
from transformer_jax.serving.guard import Guard
from transformer_jax.serving.http_server import bind
from transformer_jax.serving.keys import Keys
from transformer_jax.serving.model_service import ModelService
from transformer_jax.serving.request_limits import RequestLimits
from transformer_jax.serving.served_model import ServedModel
from transformer_jax.serving.service import LanguagePair, TextOptions
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
PAIR = LanguagePair("en", "de")


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    tokenizer = Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))
    config = Config()
    config.model = tiny_model(**FAMILIES["Transformer"])
    config.batch.max_length = 24
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 3, 1.0, 3
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model), tokenizer, config, alignment_layer=1)


@pytest.fixture(scope="module")
def model(translator):
    model = ServedModel(translator, {})
    yield model
    model.search.close()


@contextlib.contextmanager
def server_of(model, keys=(), origins=(), **limits):
    """The address of a server of this model, and its service."""
    limits = RequestLimits(**limits)
    service = ModelService({PAIR: model}, limits)
    app = make_app(service, limits, Keys(keys), Glossaries(), origins)
    with served(app) as address:
        yield address, service


@pytest.fixture(scope="module")
def server(model):
    with server_of(model, alternatives=2) as (address, _):
        yield address


@pytest.fixture
def slow_model(model):
    """The model, each of whose turns takes a while."""
    before = [thread._turn for thread in model.search._threads]
    for thread, turn in zip(model.search._threads, before, strict=True):
        thread._turn = lambda length, turn=turn: (time.sleep(0.05), turn(length))
    yield model
    for thread, turn in zip(model.search._threads, before, strict=True):
        thread._turn = turn


def ask(address, path, data=None, headers=()):
    """Status, headers and body of an answer; `data` is sent as JSON."""
    body = data if isinstance(data, bytes) or data is None else json.dumps(data).encode()
    headers = {"content-type": "application/json", **dict(headers)}
    request = urllib.request.Request(address + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def libre(address, q, **rest):
    status, _, body = ask(address, "/translate", {"q": q, "source": "en", "target": "de", **rest})
    assert status == 200, body
    return json.loads(body)["translatedText"]


def offline(translator, text):
    return translator.translate([text], split_sentences="always")[0].text


# ---- texts


def test_line_breaks_and_white_space_come_back_as_they_were(model, translator):
    lines = ["  a b c", "", "d e f\t", " ", "h"]
    for end in ("\n", "\r\n", "\u2028"):
        (found,) = model.translate([end.join(lines)], TextOptions(), Ticket())
        parts = [line.replace(line.strip(), offline(translator, line)) if line.strip() else line for line in lines]
        assert found.text == end.join(parts)


def test_a_line_break_ends_no_sentence_where_it_should_not_but_a_blank_line_does(model, translator):
    (found,) = model.translate(["a b\nc d\n\ne f\n"], TextOptions(split_lines=False), Ticket())
    assert found.text == f"{offline(translator, 'a b c d')}\n\n{offline(translator, 'e f')}\n"


def test_sentences_are_translated_one_by_one_unless_it_is_asked_otherwise(model, translator):
    text = "Abc def. Gab had."
    split, whole = (model.translate([text], TextOptions(split_sentences=each), Ticket())[0].text for each in (True, False))
    assert split == f"{offline(translator, 'Abc def.')} {offline(translator, 'Gab had.')}"
    assert whole == translator.translate([text])[0].text != split


def test_alternatives_are_the_next_best(model, translator):
    (found,) = model.translate(["a b c d"], TextOptions(alternatives=2), Ticket())
    (best,) = translator.translate(["a b c d"], nbest=3)
    expected = [other for other in dict.fromkeys(each.text for each in best.others) if other != best.text]
    assert [found.text, *found.alternatives] == [best.text, *expected]
    for number in (-1, 3):
        with pytest.raises(BadRequest, match="from 0 to 2"):
            model.translate(["a"], TextOptions(alternatives=number), Ticket())


def test_words_have_places_origins_and_probabilities(model, translator):
    text = " a b\n\nc d e"
    (found,) = model.translate([text], TextOptions(words=True), Ticket())
    assert [found.text[word.start : word.end] for word in found.words] == found.text.split()
    of_lines = translator.translate([" a b", "c d e"], align="complete")
    sources = [["a", "b"][s] for _, s in sorted((t, s) for s, t in of_lines[0].alignment)]
    sources += [["c", "d", "e"][s] for _, s in sorted((t, s) for s, t in of_lines[1].alignment)]
    assert [text[start:end] for word in found.words for start, end in word.source] == sources
    assert all(0 <= word.probability <= 1 for word in found.words)


@pytest.mark.slow
def test_a_model_without_attention_gives_words_without_origins(translator):
    config = Config()
    config.model = tiny_model(**FAMILIES["LSTM"])
    config.batch.max_length = 24
    lstm = build_model(config.model, translator.tokenizer.vocab_size)
    model = ServedModel(Translator(lstm, random_parameters(lstm), translator.tokenizer, config), {"beam": 1})
    (found,) = model.translate(["a b c"], TextOptions(words=True), Ticket())
    assert found.words and not any(word.source for word in found.words)
    with pytest.raises(BadRequest, match="no attention"):
        model.translate(["<b>a</b>"], TextOptions(markup="html"), Ticket())
    model.search.close()


def test_errors_about_markup_name_no_flags(model):
    with pytest.raises(BadRequest, match=r"^text 1: line 1, column 9: mismatched tag$"):
        model.translate(["<a><b></a>"], TextOptions(markup="xml"), Ticket())


# ---- the server


def test_whatever_comes_at_the_same_time_each_text_has_its_own_translation(server, translator):
    lines = letters(60, 9, seed=2)
    expected = dict(zip(lines, translator.translate(lines, split_sentences="always"), strict=True))
    shuffled, draw = list(lines), random.Random(1)
    draw.shuffle(shuffled)

    def one(line):
        kind = draw.randrange(3)
        if kind == 0:
            return libre(server, line)
        if kind == 1:
            return json.loads(ask(server, "/v2/translate", {"text": [line], "target_lang": "DE"})[2])["translations"][0]["text"]
        return libre(server, [line, "a b"])[0]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one, shuffled))
    assert found == [expected[line].text for line in shuffled]


def test_the_stream_ends_with_what_the_translation_is(server, translator):
    text = "a b c d e f g. h a b c"
    headers = {"accept": "text/event-stream"}
    _, answer, body = ask(server, "/page/translate", {"text": text, "source": "en", "target": "de"}, headers)
    if answer["content-type"].startswith("text/event-stream"):
        last = json.loads(body.decode().strip().splitlines()[-1].removeprefix("data: "))
    else:
        last = json.loads(body)
    assert last["text"] == offline(translator, text)


# ---- text without words


def test_a_line_without_words_is_not_translated_whichever_way_it_comes(model, server, translator):
    lines = ["\U0001f600 ...", "", "-- \u2013"]
    asked, both = {"source": "en", "target": "de"}, {"source_lang": "EN", "target_lang": "DE"}
    before = model.search.counts().pieces
    status, _, body = ask(server, "/translate", {"q": lines, "alternatives": 1} | asked)
    assert (status, json.loads(body)) == (200, {"translatedText": lines, "alternatives": [[], [], []]})
    assert libre(server, lines, format="html") == lines
    assert [
        each["text"] for each in json.loads(ask(server, "/v2/translate", {"text": lines} | both)[2])["translations"]
    ] == lines
    page = json.loads(ask(server, "/page/translate", {"text": lines[2]} | asked)[2])
    assert page["text"] == lines[2] and [word["probability"] for word in page["words"]] == [1.0, 1.0]
    assert [word["source"] for word in page["words"]] == [[[0, 2]], [[3, 4]]]
    stream = ask(server, "/page/translate", {"text": lines[0]} | asked, {"accept": "text/event-stream"})[2]
    assert json.loads(stream.decode().strip().rpartition("data: ")[2])["text"] == lines[0]
    form = "".join(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in asked.items())
    form += f'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n{lines[0]}\r\n--x--\r\n'
    file = ask(server, "/translate_file", form.encode(), {"content-type": "multipart/form-data; boundary=x"})[2]
    assert ask(server, json.loads(file)["translatedFileUrl"].removeprefix(server))[2].decode() == lines[0]
    status, _, body = ask(server, "/page/attention", {"text": lines[0]} | asked)
    assert status == 400 and "no words" in json.loads(body)["error"]
    assert model.search.counts().pieces == before
    assert libre(server, "\n".join(["a b", *lines])) == "\n".join([offline(translator, "a b"), *lines])


def test_a_line_without_words_is_there_while_the_others_grow(model):
    texts = []
    (row,) = model.translator.tokenizer.encode_target(["c d"])
    model.growing("...\na b", TextOptions(), texts.append).tell(0, row)
    assert texts == ["...\nc d"]


def test_a_line_in_capitals_grows_in_capitals(translator):
    served, texts = ServedModel(translator, {"capitals": "restore"}), []
    (row,) = translator.tokenizer.encode_target(["c d"])
    for text in ("AB CD EF", "ab cd ef"):
        served.growing(text, TextOptions(), texts.append).tell(0, row)
    served.search.close()
    assert texts == ["C D", "c d"]


# ---- spans that must not change

PROTECT = "url,email,number,placeholder,emoji,code"


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["placeholders", "fallback"])
def protecting(request, tmp_path_factory):
    """A model with placeholders or without, and its server, which protects."""
    folder, config = tmp_path_factory.mktemp("tokenizer"), TokenizerConfig(vocab_size=290, vocab_may_shrink=True)
    tokenizer = Tokenizer.train(letters(100, 8), config, folder, placeholders=request.param)
    config = Config()
    config.model = tiny_model(**FAMILIES["Transformer"])
    config.batch.max_length = 24
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 2, 1.0, 3
    built = build_model(config.model, tokenizer.vocab_size)
    translator = Translator(built, random_parameters(built), tokenizer, config, alignment_layer=1)
    model = ServedModel(translator, {}, translator.protection(PROTECT, "locale"))
    with server_of(model, alternatives=1) as (address, _):
        yield translator, model, address
    model.search.close()


def spanned(count):
    """Lines of letters, most of which have spans."""
    draw, spans = random.Random(4), ["https://x.org/a?b=1", "1,234.56", "{name}", "%s", "\U0001f602", "`a b`", "c@d.org"]
    for line in letters(count, 6, seed=3):
        words = line.split()
        for span in draw.sample(spans, draw.choice([0, 1, 1, 2])):
            words.insert(draw.randrange(len(words) + 1), span)
        yield " ".join(words)


@pytest.mark.slow
def test_spans_come_out_as_they_are_in_every_api_and_as_offline_whatever_comes_at_the_same_time(protecting):
    translator, _, address = protecting
    lines = [*spanned(10), "https://x.org {name} 7"]
    found = translator.translate(lines, protect=PROTECT, numbers="locale", split_sentences="always", nbest=2)
    expected = dict(zip(lines, found, strict=True))
    html = [f"<p>{line}<br><b>{line}</b></p>" for line in lines]
    pages = translator.translate_markup(html, protect=PROTECT, numbers="locale", split_sentences="always")

    def texts(line):
        status, _, body = ask(address, "/translate", {"q": line, "source": "en", "target": "de", "alternatives": 1})
        answer = json.loads(body)
        return status, answer["translatedText"], [answer["translatedText"], *answer["alternatives"]]

    def of_deepl(line):
        body = ask(address, "/v2/translate", {"text": [line, "a"], "source_lang": "EN", "target_lang": "DE"})[2]
        return json.loads(body)["translations"][0]["text"]

    with ThreadPoolExecutor(12) as pool:
        plain, deepl = pool.map(texts, lines), pool.map(of_deepl, lines)
        markup = pool.map(lambda text: libre(address, text, format="html"), html)
        assert [each for each in deepl] == [one.text for one in expected.values()]
        for line, (status, text, ranked) in zip(lines, plain, strict=True):
            assert (status, text) == (200, expected[line].text)
            assert ranked == list(dict.fromkeys([text, *(other.text for other in expected[line].others)]))
        assert list(markup) == [page.text for page in pages]
    assert any("1.234,56" in one.text for one in found) and not any("1,234.56" in one.text for one in found)


@pytest.mark.slow
def test_the_stream_and_the_words_of_a_text_with_spans(protecting):
    translator, _, address = protecting
    text = "a b https://x.org c.\n{name} 1,234.56"
    lines = translator.translate(text.split("\n"), protect=PROTECT, numbers="locale", split_sentences="always")
    asked = {"text": text, "source": "en", "target": "de"}
    body = ask(address, "/page/translate", asked, {"accept": "text/event-stream"})[2]
    last = json.loads(body.decode().strip().rpartition("data: ")[2])
    assert last == json.loads(ask(address, "/page/translate", asked)[2])
    assert last["text"] == "\n".join(one.text for one in lines) and last["text"].endswith("\n{name} 1.234,56")
    assert [word["probability"] for word in last["words"]][-2:] == [1.0, 1.0]
    assert "\u27e6" not in body.decode()


def test_a_text_grows_with_its_spans_only_where_the_model_writes_placeholders_for_them(protecting):
    translator, model, _ = protecting
    texts = []
    ticket = model.growing("{name}\na b https://x.org/1 c", TextOptions(), texts.append)
    if not translator.tokenizer.placeholder_ids:
        assert ticket.tell is None and model.growing("a b", TextOptions(), texts.append).tell
        return
    (row,) = translator.tokenizer.encode_target(["c \u27e61\u27e7"])
    for end in (1, len(row)):
        ticket.tell(0, row[:end])
    assert texts == ["{name}\nc", "{name}\nc https://x.org/1"]


def test_what_does_not_go_with_protected_spans_is_told_without_flags(protecting):
    translator, _, address = protecting
    asked = {"text": "a 7 b", "source": "en", "target": "de"}
    status, _, body = ask(address, "/page/attention", asked)
    assert status == 400 and "protected spans" in json.loads(body)["error"]
    assert ask(address, "/page/attention", asked | {"text": "a b"})[0] == 200
    status, _, body = ask(address, "/page/translate", asked | {"terms": [["b", "h"]]})
    if translator.tokenizer.placeholder_ids:
        assert status == 200 and {"7", "h"} <= set(json.loads(body)["text"].split())
    else:
        assert status == 400 and "glossary; leave out one" in json.loads(body)["error"] and b"--" not in body
        assert ask(address, "/page/translate", asked | {"text": "a b", "terms": [["b", "h"]]})[0] == 200


def test_a_server_says_once_how_spans_get_to_their_places(protecting, caplog):
    translator, _, _ = protecting
    job = ServingJob(workdir=["run"], protect=["url"], numbers="locale")
    with caplog.at_level(logging.INFO):
        protection = protection_of_job(job, PAIR, translator)
        translator.translate(["a www.x.org 7"], protect=protection)
    way = "with placeholders: the model writes" if translator.tokenizer.placeholder_ids else "without placeholders: spans"
    assert [record.message for record in caplog.records if f"en-de: this run was trained {way}" in record.message]
    assert sum("placeholders" in record.message for record in caplog.records) == 1
    assert protection_of_job(ServingJob(workdir=["run"]), PAIR, translator) is None


# ---- under load


def test_a_stream_grows(slow_model, translator):
    service = ModelService({PAIR: slow_model}, RequestLimits())

    async def read():
        return [each.text async for each in service.stream("a b c\nd e f", PAIR)]

    *grown, last = asyncio.run(read())
    assert last == f"{offline(translator, 'a b c')}\n{offline(translator, 'd e f')}"
    assert grown and all(len(one) > 0 or number == 0 for number, one in enumerate(grown))


def test_beyond_the_limit_of_requests_the_answer_is_503_at_once_and_says_when_to_come_again(slow_model):
    with server_of(slow_model, requests=2) as (address, service), ThreadPoolExecutor() as pool:
        waits = [pool.submit(libre, address, " ".join("abcdefgh" * 2)) for _ in range(2)]
        while service.under_way < 2:
            time.sleep(0.005)
        begun = time.monotonic()
        for path, data, name in (
            ("/translate", {"q": "a", "source": "en", "target": "de"}, "error"),
            ("/v2/translate", {"text": ["a"], "target_lang": "DE"}, "message"),
        ):
            status, headers, body = ask(address, path, data)
            assert status == 503 and headers["retry-after"] == "1" and "requests are under way" in json.loads(body)[name]
        assert time.monotonic() - begun < 2
        assert all(wait.result() for wait in waits)
        assert libre(address, "a b")


def test_a_translation_that_takes_too_long_ends_and_frees_its_slots(slow_model):
    with server_of(slow_model, seconds=0.2) as (address, service):
        status, _, body = ask(address, "/translate", {"q": "\n".join(letters(80, 8)), "source": "en", "target": "de"})
        assert status == 504 and "longer than the 0.2 seconds" in json.loads(body)["error"]
        assert_soon_idle(service, slow_model)


def assert_soon_idle(service, model):
    end = time.monotonic() + 20
    while service.under_way or model.search.counts().waiting or model.search.counts().searching:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_leaves_frees_its_slots(slow_model):
    with server_of(slow_model) as (address, service):
        done = slow_model.search.counts().pieces
        body = json.dumps({"q": "\n".join(letters(300, 8)), "source": "en", "target": "de", "alternatives": 0}).encode()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /translate HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            client.sendall(f"{head}\r\n\r\n".encode() + body)
            while not slow_model.search.counts().searching:
                time.sleep(0.005)
        assert_soon_idle(service, slow_model)
        assert slow_model.search.counts().pieces - done < 250


def raw(address, text: bytes) -> bytes:
    """What comes back for these bytes, until the server has no more."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(text)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
            more = client.recv(65536)
            if not more:
                break
            answer += more
        return answer


def test_bodies_that_are_too_large_or_do_not_end_have_their_codes(model):
    with server_of(model, seconds=0.3, file_bytes=1000, body_bytes=1000) as (address, _):
        head = b"POST /translate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        announced = raw(address, head + b"content-length: 100000000\r\n\r\n")
        assert announced.startswith(b"HTTP/1.1 413") and b"1,000 bytes" in announced
        chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
        assert raw(address, head + b"transfer-encoding: chunked\r\n\r\n" + chunk).startswith(b"HTTP/1.1 413")
        unfinished = raw(address, head + b'content-length: 100\r\n\r\n{"q":')
        assert unfinished.startswith(b"HTTP/1.1 408") and b"within 0.3 seconds" in unfinished
        assert raw(address, head.replace(b"/translate", b"/v2/translate") + b"content-length: 9999\r\n\r\n").endswith(b"}")
        assert ask(address, "/languages")[0] == 200


def test_paths_that_there_are_not_and_methods_have_each_apis_form(server):
    for path, name in (("/nothing", "error"), ("/v2/nothing", "message"), ("/translate", "error")):
        status, _, body = ask(server, path)
        assert status in (404, 405) and path in json.loads(body)[name]


def test_a_bug_is_answered_with_500_and_without_texts_in_the_log(caplog):
    async def app(scope, receive, send):
        raise AssertionError

    async def broken(scope, receive, send):
        await Guard(app, RequestLimits())(scope, receive, send)

    with served(broken) as address, caplog.at_level(logging.INFO):
        assert ask(address, "/translate", {"q": "a secret"})[0] == 500
    assert "secret" not in caplog.text


def test_keys_are_asked_for_except_for_what_tells_nothing(model, server):
    data = {"text": "a b", "source": "en", "target": "de"}
    with server_of(model, keys=["open-sesame"]) as (address, _):
        assert ask(address, "/page/translate", data)[0] == 403
        assert ask(address, "/page/translate", data, {"authorization": "Bearer wrong"})[0] == 403
        assert ask(address, "/page/translate", data, {"authorization": "Bearer open-sesame"})[0] == 200
        assert (
            ask(address, "/translate", {"q": "a", "source": "en", "target": "de"})[0] == 400
        )  # as LibreTranslate's own server
        assert ask(address, "/translate", {"q": "a", "source": "en", "target": "de", "api_key": "wrong"})[0] == 403
        assert ask(address, "/translate", {"q": "a", "source": "en", "target": "de", "api_key": "open-sesame"})[0] == 200
        assert ask(address, "/")[0] == ask(address, "/health")[0] == ask(address, "/metrics")[0] == 200


def test_other_origins_may_ask_only_where_they_are_named(model, server):
    origin = {"origin": "https://example.org"}
    assert "access-control-allow-origin" not in ask(server, "/languages", headers=origin)[1]
    with server_of(model, origins=["https://example.org"]) as (address, _):
        assert ask(address, "/languages", headers=origin)[1]["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-origin" not in ask(address, "/languages", headers={"origin": "https://other.org"})[1]


def test_the_figures_count_what_was_asked_and_translated(model):
    with server_of(model) as (address, _):
        before = figures(address)
        libre(address, "a b\nc d")
        ask(address, "/nothing")
        after = figures(address)
    languages = '{languages="en-de"}'
    assert after[f"transformer_jax_pieces_total{languages}"] - before[f"transformer_jax_pieces_total{languages}"] == 2
    assert after['transformer_jax_requests_total{path="/translate",status="200"}'] == 1
    assert after['transformer_jax_requests_total{path="other",status="404"}'] == 1
    assert after['transformer_jax_request_seconds_count{path="/translate"}'] == 1
    assert after[f"transformer_jax_tokens_total{languages}"] > before[f"transformer_jax_tokens_total{languages}"]
    assert after["transformer_jax_under_way"] == 0


def figures(address):
    lines = ask(address, "/metrics")[2].decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_the_attention_of_a_sentence_is_a_page(server):
    data = {"text": "a b c", "source": "en", "target": "de"}
    status, headers, body = ask(server, "/page/attention", data)
    assert status == 200 and headers["content-type"].startswith("text/html") and b"</html>" in body
    status, _, body = ask(server, "/page/attention", data | {"text": "Abc def. Gab had."})
    assert status == 400 and "one sentence" in json.loads(body)["error"]


def test_the_attention_of_a_sentence_in_capitals_is_that_of_its_small_letters(translator):
    served = ServedModel(translator, {"capitals": "restore"})
    page = served.attention_page("AB CD", Ticket())
    assert page == served.attention_page("Ab cd", Ticket()) != ServedModel(translator, {}).attention_page("AB CD", Ticket())


def test_languages_are_found_by_code_variant_and_default(model):
    service = ModelService({PAIR: model, LanguagePair("de", "en"): model}, RequestLimits())
    assert service.pair("EN-us", "de_AT") == PAIR
    assert service.pair(None, "DE") == service.pair("auto", "de") == PAIR
    for source, target, says in (
        ("en", "fr", "fr is no target language"),
        ("fr", "de", "fr cannot be translated into de"),
        ("en", None, "the target language is missing"),
    ):
        with pytest.raises(BadRequest, match=says):
            service.pair(source, target)


def test_after_the_signal_nothing_new_is_taken(model):
    service = ModelService({PAIR: model}, RequestLimits())
    service.stop()
    with pytest.raises(Exception, match="about to stop") as found:
        asyncio.run(service.translate(["a"], PAIR))
    assert found.value.status == 503 and not isinstance(found.value, TooSlow)


# ---- the program


def test_impossible_flags_are_told():
    for changes, says in (
        ({"compute_dtype": "float16"}, "--compute_dtype=float16 should be one of float32"),
        ({"grace": 0}, "--grace=0 should be more than 0"),
        ({"protect": ["url", "x*"]}, r"--protect=x\*: matches the empty text"),
        ({"numbers": "german"}, "--numbers=german should be one of keep, locale"),
    ):
        with pytest.raises(UserError, match=says):
            ServingJob(workdir=["runs/demo"], **changes)
    with pytest.raises(UserError, match="--max_requests=0 should be more than 0"):
        RequestLimits(requests=0)
    for host, port, says in (("127.0.0.1", 70000, "from 0 to 65535"), ("no.such.host.invalid", 0, "expected an address")):
        with pytest.raises(UserError, match=says):
            bind(host, port)
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="is taken"):
            bind("127.0.0.1", taken.getsockname()[1])


ROOT = Path(__file__).parents[1]


def start(*flags):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "serve.py", *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)


def address_of(process):
    for line in process.stderr:
        if "ready: " in line:
            return line.split("ready: ")[1].split()[0]
    raise AssertionError(f"the server ended with code {process.wait()}")


@pytest.mark.slow
def test_the_program_serves_until_sigterm_and_answers_what_is_under_way(tmp_path):
    config = quick_config(tmp_path)
    run = tmp_path / "run"
    train(config, run)
    with start(f"--workdir={run}", "--port=0", "--beam=2") as process:
        address = address_of(process)
        translator = Translator.load(run)
        lines = letters(400, 6, seed=9)
        with ThreadPoolExecutor() as pool:
            wait = pool.submit(libre, address, "\n".join(lines))
            while not figures(address)["transformer_jax_under_way"]:
                time.sleep(0.005)
            process.send_signal(signal.SIGTERM)
            expected = translator.translate(lines, beam=2, split_sentences="always")
            assert wait.result() == "\n".join(each.text for each in expected)
        assert process.wait(30) == 0
        with pytest.raises(OSError):
            ask(address, "/health")


@pytest.mark.slow
def test_a_server_that_cannot_begin_says_why_in_one_line(tmp_path):
    with start(f"--workdir={tmp_path / 'nothing'}", "--port=0") as process:
        error = process.communicate()[1]
    assert process.returncode == 2 and error.startswith("error: ") and error.count("\n") == 1 and "nothing" in error


@pytest.mark.slow
def test_threads_end_with_the_service(translator):
    model = ServedModel(translator, {})
    service = ModelService({PAIR: model}, RequestLimits())
    assert asyncio.run(service.translate(["a b"], PAIR))[0].text == offline(translator, "a b")
    service.close()
    assert not any(thread.name.startswith("search") and thread in model.search._threads for thread in threading.enumerate())
