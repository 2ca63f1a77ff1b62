"""A search that stays open: whoever asks at the same time, a translation is the one that it is alone."""

import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from helpers import FAMILIES, letters, random_parameters, tiny_model

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.open_search import OpenSearch
from transformer_jax.inference.search_queue import Left, Ticket
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.compilations import Compilations

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
LINES = [*letters(16, 16, seed=3), "", "a. b c. d", "h " * 30]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def make_translator(tokenizer, longest=24, **model):
    config = Config()
    config.model = tiny_model(**model)
    config.batch.max_length = longest
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 3, 1.0, 3
    model = build_model(config.model, tokenizer.vocab_size)
    return Translator(model, random_parameters(model), tokenizer, config)


@pytest.fixture(scope="module")
def transformer(tokenizer):
    return make_translator(tokenizer, **FAMILIES["Transformer"])


@pytest.fixture(scope="module")
def shared(transformer):
    search = transformer.open_search()
    yield search
    search.close()


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.tokens, one.parts) == (other.text, other.tokens, other.parts)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert [each.text for each in one.others] == [each.text for each in other.others]


def at_once(translator, search, calls, **options):
    """What calls that come at the same time get: (lines, wanted) each."""
    with ThreadPoolExecutor(len(calls)) as pool:
        waits = [
            pool.submit(translator.sharing(search, Ticket()).translate, lines, nbest=wanted, **options)
            for lines, wanted in calls
        ]
        return [wait.result() for wait in waits]


def in_parts(lines, wanted=(1, 2, 3)):
    """Calls of 1, 2, 3, ... lines that want different numbers of translations."""
    calls, start = [], 0
    while start < len(lines):
        size = len(calls) % 6 + 1
        calls.append((lines[start : start + size], wanted[len(calls) % len(wanted)]))
        start += size
    return calls


def assert_all_alike(translator, **options):
    search = translator.open_search(**options)
    calls = in_parts(LINES, wanted=(1,) if options.get("beam") == 1 else (1, 2, 3))
    for (lines, wanted), found in zip(calls, at_once(translator, search, calls, **options), strict=True):
        assert_same(found, translator.translate(lines, nbest=wanted, **options))
    search.close()


@pytest.mark.slow  # test_serving.py has it for a Transformer
@pytest.mark.parametrize("family", FAMILIES)
def test_whoever_asks_at_the_same_time_gets_what_he_gets_alone(tokenizer, family):
    assert_all_alike(make_translator(tokenizer, **FAMILIES[family]))


@pytest.mark.slow
def test_lines_of_any_length_come_together(tokenizer):
    assert_all_alike(make_translator(tokenizer, longest=100, **FAMILIES["Transformer"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"beam": 1},
        {"coverage_penalty": 0.3},
        {"length_normalization": "power", "length_penalty": 1.0, "word_reward": 0.1},
        {"no_repeat_ngram": 2, "min_length_ratio": 0.5},
        {"max_length_ratio": 0.2},
    ],
    ids=str,
)
def test_any_search_can_stay_open(tokenizer, options):
    for family in ("Transformer", "LSTM with attention"):
        assert_all_alike(make_translator(tokenizer, **FAMILIES[family]), **options)


@pytest.mark.slow
def test_what_the_open_search_is_not_for_is_searched_beside_it(transformer, shared):
    """Prefixes, phrases, terms, other options, and lines that are longer than its longest."""
    mine = transformer.sharing(shared, Ticket())
    line, long = "a b c", "a b c d e f g h " * 12
    for call in (
        functools.partial(lambda by, **rest: by.translate([line], prefixes=["h"])),
        functools.partial(lambda by, **rest: by.translate([line], phrases=[["g h"]])),
        functools.partial(lambda by, **rest: by.translate([line], terminology={"b": "f"})),
        functools.partial(lambda by, **rest: by.translate([line], length_penalty=0.0)),
        functools.partial(lambda by, **rest: by.translate([line], temperature=1.0, seed=3)),
        functools.partial(lambda by, **rest: by.translate([long], split_sentences="never")),
    ):
        assert_same(call(mine), call(transformer))


@pytest.mark.slow
def test_alignments_are_those_of_the_translation(transformer, shared):
    lines = [line for line in LINES if line.strip()]
    found = transformer.sharing(shared, Ticket()).translate(lines, align="complete")
    assert [one.alignment for one in found] == [one.alignment for one in transformer.translate(lines, align="complete")]
    page = "<p>a <b>b</b> c<br>d</p>"
    (marked,) = transformer.sharing(shared, Ticket()).translate_markup([page])
    assert marked.text == transformer.translate_markup([page])[0].text


@pytest.mark.slow
def test_after_compile_nothing_is_compiled(transformer):
    search = transformer.open_search()
    search.compile()
    compilations = Compilations()
    at_once(transformer, search, in_parts(LINES))
    assert compilations.take() == []
    search.compile_rest(alignment_layer=1)
    assert compilations.take()
    at_once(transformer, search, in_parts(LINES))
    search.forced.layer_attentions(transformer.params, [np.zeros(9, np.int32)], [np.zeros(20, np.int32)], 4096, 1)
    assert compilations.take() == []
    search.close()


def slow(search, seconds):
    """The search, each of whose turns takes so long."""
    for thread in search._threads:
        turn = thread._turn
        thread._turn = lambda length, turn=turn: (time.sleep(seconds), turn(length))


def test_a_short_request_does_not_wait_for_a_long_one(transformer):
    search = transformer.open_search()
    slow(search, 0.01)
    ends = {}

    def ask(name, lines):
        transformer.sharing(search, Ticket()).translate(lines)
        ends[name] = time.monotonic()

    long = threading.Thread(target=ask, args=("long", letters(400, 8, seed=5)))
    long.start()
    while not search.counts().searching:
        time.sleep(0.001)
    ask("short", ["a b c"])
    assert search.counts().waiting > 100
    long.join()
    assert ends["short"] < ends["long"]
    search.close()


def test_who_leaves_frees_slots_and_the_others_go_on(transformer):
    search = transformer.open_search()
    slow(search, 0.02)
    ticket, errors = Ticket(), []

    def ask():
        try:
            transformer.sharing(search, ticket).translate(letters(300, 8, seed=6))
        except Left as error:
            errors.append(error)

    leaving = threading.Thread(target=ask)
    leaving.start()
    while not search.counts().searching:
        time.sleep(0.001)
    ticket.leave()
    leaving.join(10)
    assert len(errors) == 1
    assert_same(transformer.sharing(search, Ticket()).translate(["a b c"]), transformer.translate(["a b c"]))
    end = time.monotonic() + 10
    while (counts := search.counts()).waiting + counts.searching and time.monotonic() < end:
        time.sleep(0.01)
    assert counts.waiting + counts.searching == 0
    assert counts.pieces < 200
    with pytest.raises(Left):  # a ticket is left for good
        transformer.sharing(search, ticket).translate(["a"])
    search.close()


def test_an_error_in_a_step_is_told_to_those_in_it_and_the_search_goes_on(transformer, caplog):
    search = transformer.open_search()
    search.compile()
    runs = [(programs, programs.run) for of_length in search._programs for programs in of_length]

    def broken(*arguments):
        raise RuntimeError("RESOURCE_EXHAUSTED: no room")

    for programs, _ in runs:
        programs.run = broken
    with pytest.raises(RuntimeError, match="no room"):
        transformer.sharing(search, Ticket()).translate(["a b", "c"])
    for programs, run in runs:
        programs.run = run
    assert_same(transformer.sharing(search, Ticket()).translate(["a b", "c"]), transformer.translate(["a b", "c"]))
    assert "a step of the search failed" in caplog.text
    search.close()


def test_the_tokens_so_far_become_the_translation(transformer):
    search, told = transformer.open_search(), []
    line = "a b c d e f g"
    decode = transformer.tokenizer.decode
    ticket = Ticket(lambda number, tokens: told.append((number, decode([tokens])[0])))
    (found,) = transformer.sharing(search, ticket).translate([line])
    assert_same([found], transformer.translate([line]))
    assert all(number == 0 for number, _ in told)
    search.close()


@pytest.mark.slow
def test_what_is_begun_is_finished_when_it_is_closed(transformer):
    search = transformer.open_search()
    with ThreadPoolExecutor() as pool:
        wait = pool.submit(transformer.sharing(search, Ticket()).translate, letters(50, 8, seed=7))
        while not search.counts().pieces:
            time.sleep(0.001)
        search.close()
        assert len(wait.result()) == 50
    with pytest.raises(RuntimeError, match="closed"):
        search.search([transformer.pieces(["a"])[0][0]])
    assert not any(thread.is_alive() for thread in search._threads)


def test_counts_say_what_was_done(transformer, tokenizer):
    search = transformer.open_search()
    found = transformer.sharing(search, Ticket()).translate(LINES)
    pieces, end = sum(len(each) for each in transformer.pieces(LINES)), time.monotonic() + 10
    while (counts := search.counts()).pieces < pieces and time.monotonic() < end:
        time.sleep(0.01)  # counted after it was delivered
    assert counts.pieces == pieces and counts.waiting == counts.searching == 0
    assert counts.tokens == sum(len(each.tokens) for each in found)
    assert 0 < counts.occupied <= counts.slots
    search.close()


def test_tokens_that_are_drawn_need_another_search(transformer):
    for options in ({"temperature": 1.0}, {"mbr": 4}):
        with pytest.raises(UserError, match="draws no tokens"):
            transformer.open_search(**options)


@pytest.mark.slow
def test_the_index_begins_anew_before_it_is_too_large(transformer, monkeypatch):
    monkeypatch.setattr("transformer_jax.inference.slot_bank._INDEX_LIMIT", 16)
    search = transformer.open_search()
    calls = [(letters(20, 8, seed=seed), 1) for seed in range(8)]
    for (lines, _), found in zip(calls, at_once(transformer, search, calls), strict=True):
        assert_same(found, transformer.translate(lines))
    search.close()


def test_each_device_has_its_threads(transformer):
    search = transformer.open_search()
    places = {next(iter(jax.tree.leaves(thread.params)[0].devices())) for thread in search._threads}
    assert places == set(jax.local_devices())
    assert isinstance(search, OpenSearch) and np.isfinite(search.longest)
    search.close()
