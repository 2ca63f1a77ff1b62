"""Text to ids and back, and what can be wrong with a tokenizer's files."""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import sentencepiece
from helpers import data_set, letters

from transformer_jax.config import TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import read_lines
from transformer_jax.tokenization import tokenizer_training
from transformer_jax.tokenization.normalization import normalize
from transformer_jax.tokenization.special_ids import SpecialIds
from transformer_jax.tokenization.subword_sampling import make_sampler
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.tokenization.word_table import WordTable, words_are_independent
from transformer_jax.worker_processes import worker_processes

WORDS = "ein eine Hund Katze schläft läuft über grüne Wiese the dog cat sleeps runs across green meadow and while".split()
NASTY = [
    "„Größe“ – ‚so‘ … 3 × ½ ﬁ ① Ⅷ ² ™",  # noqa: RUF001
    "e\u0301 versus é, \u0644\u0627 \u05e9\u05dc\u05d5\u05dd \u202eright to left\u202c",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 \U0001f600",
    "日本語 한국어 ไทย हिन्दी",
    "<pad> </s> <s> <unk> <0x41> <0x0A>",
    "zero\u200bwidth soft\u00adhyphen a\u00a0b a\u2028b \ufeff \x00\x07",
    "&quot;x&quot; @-@ ##ing ▁",
    "",
    "\r",
    "x" * 5000,
]


def lines(count: int = 400) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) + "." for _ in range(count)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    """Without normalisation, which has tests of its own."""
    config = TokenizerConfig(vocab_size=300, algorithm=request.param, normalize=False)
    return Tokenizer.train(lines(), config, tmp_path_factory.mktemp(request.param))


def plain(text: str) -> str:
    """Runs of white space as one space; so is SentencePiece's own mark for a space."""
    return re.sub(r"[ ▁]+", " ", text).strip(" ")


def test_any_text_survives_the_round_trip(tokenizer):
    for encode in (tokenizer.encode_source, tokenizer.encode_target):
        assert list(map(plain, tokenizer.decode(encode(NASTY)))) == list(map(plain, NASTY))
    assert tokenizer.decode(tokenizer.encode_target(lines())) == lines()


@pytest.mark.parametrize("most", [1_000_000, 40, 3])
def test_a_word_at_a_time_is_the_whole_line_at_once(tokenizer, most):
    """Also where the table of words is full again and again."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.folder / "sentencepiece.model"))
    if not words_are_independent(model.serialized_model_proto()):
        return
    draw = random.Random(1)
    letters = "abcdeinrstu\u00fc\u00df.,-'\"1\u00a0\u2003\t\u200b\u0301\u4f60\U0001f600\x00<s>" + " " * 8
    noise = ["".join(draw.choices(letters, k=draw.randint(0, 40))) for _ in range(500)]
    text = [line for line in (*NASTY, *lines(), *noise, "  two   spaces  ", " ") if "\u2581" not in line]
    table = WordTable(model, most)
    without_nul = [line for line in text if "\0" not in line]
    longer_words = ["Elefantenhaus" + word for word in text if word.isalpha()] * 100
    breaks = ["one\ntwo \n", *without_nul]
    for some in (text[:1], text[:7], text[7:], text, without_nul, longer_words, breaks, without_nul[::-1]):
        flat, counts = table.encode(some)
        found = [ids.tolist() for ids in np.split(flat, np.cumsum(counts)[:-1])]
        assert found == model.encode(some, out_type=int)
    for line in ["a\u2581b \u2581", *text[:20]]:  # with SentencePiece's own sign, and alone
        assert tokenizer.encode_source([line], add_eos=False)[0].tolist() == model.encode(line, out_type=int)
        assert tokenizer.encode_source([line])[0].tolist() == [*model.encode(line, out_type=int), tokenizer.eos_id]


@pytest.mark.parametrize(
    ("options", "independent"),
    [
        ({}, True),
        (dict(model_type="unigram"), False),
        (dict(normalization_rule_name="nmt_nfkc"), False),
        (dict(split_by_whitespace=False), False),
        (dict(treat_whitespace_as_suffix=True), False),
        (dict(add_dummy_prefix=False), False),
        (dict(remove_extra_whitespaces=False), False),
    ],
    ids=str,
)
def test_whose_words_are_independent(options, independent):
    model = io.BytesIO()
    own = dict(model_type="bpe", normalization_rule_name="identity", vocab_size=300, byte_fallback=True, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines()), model_writer=model, **own | options)
    assert words_are_independent(model.getvalue()) == independent


def test_multi30k_survives_the_round_trip(tmp_path):
    folder = data_set("multi30k")
    text = [line for language in ("en", "de") for line in read_lines(folder / f"train.{language}")]
    trained = Tokenizer.train(text, TokenizerConfig(), tmp_path)
    assert list(map(plain, trained.decode(trained.encode_target(text)))) == list(map(plain, text))


def test_text_never_becomes_a_special_id(tokenizer):
    special = {tokenizer.pad_id, tokenizer.eos_id, tokenizer.unknown_id, tokenizer.bos_id, tokenizer.decoder_start_id}
    for ids in tokenizer.encode_source([*NASTY, *map(tokenizer.pieces(range(4)).__getitem__, range(4))]):
        assert ids[-1] == tokenizer.eos_id and special.isdisjoint(ids[:-1].tolist())


def test_text_that_names_special_pieces_can_be_trained_on(tmp_path):
    trained = Tokenizer.train(["<pad> </s> <0x41> <s> <unk>"] * 50 + lines(), TokenizerConfig(vocab_size=340), tmp_path)
    (ids,) = trained.encode_source(["<pad> </s> <0x41>"])
    assert trained.eos_id not in ids[:-1] and trained.pad_id not in ids
    assert trained.decode([ids]) == ["<pad> </s> <0x41>"]


def test_ids_have_the_form_batches_want(tokenizer):
    encoded = tokenizer.encode_source(["", "Hund"])
    assert [ids.dtype for ids in encoded] == [np.int32, np.int32]
    assert encoded[0].tolist() == [tokenizer.eos_id]
    assert [ids.tolist() for ids in tokenizer.encode_source(["", "Hund"], add_eos=False)] == [
        ids[:-1].tolist() for ids in encoded
    ]
    assert tokenizer.encode_source([]) == [] and tokenizer.decode([]) == []
    assert max(ids.max() for ids in tokenizer.encode_source(lines())) < tokenizer.vocab_size


@pytest.mark.parametrize(
    "text", ["Der Hund schläft.", "  a  b ", "", "½ \u4f60\u4f60 x", "a\u3000b\u2028c", "\t", "</s> <0x41>", "x" * 50]
)
def test_every_piece_knows_its_word(tokenizer, text):
    """Words are those of `str.split`, spelled by their pieces; special ids have none."""
    ids = tokenizer.encode_source([text])[0]
    words = tokenizer.words(ids)
    assert words[-1] == -1 and (np.diff(words[:-1]) >= 0).all()
    expected = text.split()
    assert sorted(set(words[:-1]) - {-1}) == list(range(len(expected)))
    for number, word in enumerate(expected):
        assert tokenizer.decode([ids[words == number]])[0].strip() == word


def test_text_segmented_at_random_is_the_same_text(tokenizer):
    text = [*NASTY, *lines(100)]
    for side in ("source", "target"):
        encode, sample = getattr(tokenizer, f"encode_{side}"), getattr(tokenizer, f"sample_{side}")
        best, one, other, again = encode(text), sample(text, 0.1, 1), sample(text, 0.1, 2), sample(text, 0.1, 1)
        assert list(map(plain, tokenizer.decode(one))) == list(map(plain, text))
        assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
        assert len({tuple(map(bytes, rows)) for rows in (best, one, other)}) == 3
        assert all(row[-1] == tokenizer.eos_id for row in one) and sum(map(len, one)) > sum(map(len, best))
    assert tokenizer.sample_source([], 0.1, 1) == [] and tokenizer.sample_source([""], 0.1, 1)[0].tolist() == [tokenizer.eos_id]


def test_what_is_drawn_is_the_same_in_any_process(tokenizer):
    program = (
        f"from transformer_jax import Tokenizer; tokenizer = Tokenizer.load({str(tokenizer.folder)!r}); "
        f"print([row.tolist() for row in tokenizer.sample_source({lines(50)!r}, 0.1, 7)])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == [row.tolist() for row in tokenizer.sample_source(lines(50), 0.1, 7)]


def dropout(word: str, scores: dict[str, float], alpha: float, draw: random.Random) -> tuple[str, ...]:
    """Provilkov et al. 2020, algorithm 1, as it stands there."""
    symbols = list(word)
    while True:
        pairs = ["".join(pair) for pair in itertools.pairwise(symbols)]
        merges = [i for i, pair in enumerate(pairs) if pair in scores and draw.random() >= alpha]
        if not merges:
            return tuple(symbols)
        best = max(merges, key=lambda i: (scores[pairs[i]], -i))
        symbols[best : best + 2] = [pairs[best]]


def segmentations(word: str, scores: dict[str, float]) -> Iterator[tuple[str, ...]]:
    if not word:
        yield ()
    for end in range(1, len(word) + 1):
        if word[:end] in scores:
            yield from ((word[:end], *rest) for rest in segmentations(word[end:], scores))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_segmentations_are_drawn_as_often_as_published(algorithm, tmp_path):
    """Of a text of three letters, so that there are many ways to cut a word."""
    draw = random.Random(0)
    text = [" ".join("".join(draw.choices("abc", k=draw.randint(1, 6))) for _ in range(5)) for _ in range(400)]
    config = TokenizerConfig(vocab_size=40, algorithm=algorithm, byte_fallback=False)
    folder = Tokenizer.train(text, config, tmp_path).folder
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    scores = {model.id_to_piece(i): model.get_score(i) for i in range(4, model.get_piece_size())}
    count, alpha, word = 20_000, 0.3, "▁abcabac"
    sampler = make_sampler((folder / "sentencepiece.model").read_bytes(), alpha)
    ids, offsets = sampler._segment([word], np.zeros(count, np.int64), np.random.default_rng(0))
    drawn = Counter(tuple(model.id_to_piece(row.tolist())) for row in np.split(ids, offsets[1:-1]))
    if algorithm == "unigram":
        weights = {found: math.exp(alpha * sum(map(scores.get, found))) for found in segmentations(word, scores)}
    else:
        weights = Counter(dropout(word, scores, alpha, draw) for _ in range(5 * count))
    assert len(weights) > 5
    for found in weights.keys() | drawn.keys():
        share = weights.get(found, 0) / sum(weights.values())
        assert abs(drawn[found] / count - share) < 5 * math.sqrt((share + 1e-4) / count), found


def test_alpha_of_sampling(tmp_path):
    """BPE: the chance of a merge to be left out, so that 0 is the best segmentation and 1 is letters. Unigram: a power of
    probabilities, so that a large one is the best segmentation."""
    bpe = Tokenizer.train(lines(), TokenizerConfig(vocab_size=300), tmp_path / "bpe")
    unigram = Tokenizer.train(lines(), TokenizerConfig(vocab_size=300, algorithm="unigram"), tmp_path / "unigram")
    for tokenizer, alpha in ((bpe, 0.0), (unigram, 100.0)):
        pairs = zip(tokenizer.sample_source(lines(), alpha, 3), tokenizer.encode_source(lines()), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)
    letters = [len(line) + 2 for line in lines()]  # the space at the start, EOS
    assert [len(row) for row in bpe.sample_source(lines(), 1.0, 3)] == letters


def test_decoding_stops_at_eos_and_drops_special_ids(tokenizer):
    ids = tokenizer.encode_target(["Hund Katze"])[0].tolist()
    row = [tokenizer.decoder_start_id, *ids, *ids, tokenizer.pad_id]
    assert tokenizer.decode([row, np.array(row), [], [tokenizer.pad_id]]) == ["Hund Katze", "Hund Katze", "", ""]
    pieces = tokenizer.pieces(row)
    assert len(pieces) == len(row) and pieces[0] == "<s>" and pieces[-1] == "<pad>"
    assert "".join(pieces[1 : len(ids)]).replace("▁", " ").strip() == "Hund Katze"


def test_training_again_gives_the_same_in_any_order(tmp_path, tokenizer):
    for algorithm in ("bpe", "unigram"):
        config = TokenizerConfig(vocab_size=300, algorithm=algorithm, sample_lines=100)
        first = Tokenizer.train(lines(), config, tmp_path / f"{algorithm}1")
        second = Tokenizer.train(reversed(lines()), config, tmp_path / f"{algorithm}2")
        assert first.fingerprint == second.fingerprint != tokenizer.fingerprint
        assert Tokenizer.load(tmp_path / f"{algorithm}1").fingerprint == first.fingerprint


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sample_is_of_the_smallest_hashes(processes, monkeypatch):
    monkeypatch.setattr(tokenizer_training, "_CHUNK", 30)
    work = functools.partial(worker_processes, count=processes)
    monkeypatch.setattr(tokenizer_training, "worker_processes", work)
    text = [f"{line} \u00a0{i % 150}" for i, line in enumerate(letters(400, 6))]

    def hashed(line: str) -> int:
        return int.from_bytes(hashlib.blake2b(normalize(line).encode(), digest_size=8).digest(), "little")

    for count in (1, 70, 150, 299, 400, 500):
        assert sorted(tokenizer_training._sample(text, count, True)) == sorted(sorted(text, key=hashed)[:count])
    once, often = text[:100], [*text[:100], *text[:100]]
    assert sorted(tokenizer_training._sample(often, 40, True)) == sorted(2 * sorted(once, key=hashed)[:20])


def test_training_says_nothing(tmp_path, capfd):
    Tokenizer.train(lines(), TokenizerConfig(vocab_size=300), tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_vocabulary_too_large_names_the_largest(tmp_path, algorithm):
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=50000 .* at most \d+") as caught:
        Tokenizer.train(lines(), TokenizerConfig(vocab_size=50_000, algorithm=algorithm), tmp_path)
    largest = int(re.search(r"at most (\d+)", str(caught.value))[1])
    assert Tokenizer.train(lines(), TokenizerConfig(vocab_size=largest, algorithm=algorithm), tmp_path).vocab_size == largest


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_vocabulary_may_shrink_to_the_largest_of_the_text(tmp_path, algorithm, caplog):
    """The model is that of the largest `vocab_size`; where the text has enough pieces the setting changes nothing."""
    config = TokenizerConfig(vocab_size=50_000, algorithm=algorithm, vocab_may_shrink=True)
    asked = "tokenizer.vocab_size=50,000"
    with caplog.at_level("INFO", "transformer_jax"):
        found = Tokenizer.train(lines(), config, tmp_path / "found")
        assert caplog.messages == [f"tokenizer: {found.vocab_size} pieces, because this text has no more; {asked}"]
        for size in (found.vocab_size, 300):
            shrunk = Tokenizer.train(lines(), dataclasses.replace(config, vocab_size=size), tmp_path / f"shrunk {size}")
            exact = Tokenizer.train(lines(), TokenizerConfig(vocab_size=size, algorithm=algorithm), tmp_path / f"exact {size}")
            assert shrunk.models() == exact.models() and (size == 300 or exact.models() == found.models())
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_vocabulary_follows_from_the_number_of_pairs(tmp_path, algorithm, caplog, monkeypatch):
    """The same model as with that `vocab_size`; the fewest pieces that the characters need come on top of them."""
    monkeypatch.setattr("transformer_jax.tokenization.tokenizer_training.usual_vocabulary", lambda pairs: 250 + pairs)
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))

    def train(text: list[str], **settings) -> bytes:
        config = TokenizerConfig(algorithm=algorithm, **settings)
        return Tokenizer.train(text, config, tmp_path / str(len([*tmp_path.iterdir()]))).models()[0]

    with caplog.at_level("INFO", "transformer_jax"):
        assert train(lines(100), vocab_size=0) == train(lines(100), vocab_size=300)
        assert caplog.messages == ["tokenizer: 300 pieces for a text of 50 pairs (tokenizer.vocab_size=0)"]
        train(lines(2000), vocab_size=0)
        assert re.fullmatch(r"tokenizer: \d+ pieces for a text of 1,000 pairs, because it has no more .*", caplog.messages[-1])
        train([*lines(19), characters], vocab_size=0)
        found = re.fullmatch(
            r"tokenizer: (\d+) pieces for a text of 10 pairs, for its (\d+) characters too .*", caplog.messages[-1]
        )
        if algorithm == "bpe":  # a unigram model of this text has hardly more pieces than characters, which is told
            assert int(found[1]) == int(found[2]) + 260
        else:
            assert caplog.messages[-1].endswith(" pairs, because it has no more (tokenizer.vocab_size=0)")


def test_a_vocabulary_too_small_and_no_text(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=262 is smaller .* at least") as caught:
        Tokenizer.train(lines(), TokenizerConfig(vocab_size=262), tmp_path)
    smallest = int(re.search(r"at least (\d+)", str(caught.value))[1])
    assert Tokenizer.train(lines(), TokenizerConfig(vocab_size=smallest), tmp_path).vocab_size == smallest
    with pytest.raises(UserError, match="no text"):
        Tokenizer.train(["", " "], TokenizerConfig(), tmp_path)


def test_a_fingerprint_is_of_what_the_files_say(tmp_path):
    model = Tokenizer.train(lines(), TokenizerConfig(vocab_size=300), tmp_path / "one").models()[0]
    ids = dict(pad_id=2, eos_id=0, unknown_id=1, bos_id=0, decoder_start_id=2)
    Tokenizer.of_models(model, model, ["</s>", "<unk>", None, "▁Hund", "é"], ids, tmp_path / "two")
    for folder in (tmp_path / "one", tmp_path / "two"):
        before = Tokenizer.load(folder).fingerprint
        texts = {path: path.read_bytes() for path in folder.glob("*.json")}
        # Those of tokenizers in older runs were of the files, as they were written.
        digest = hashlib.sha256(texts[folder / "tokenizer.json"])
        for name in [path.name for path in folder.iterdir() if path.suffix in (".model", ".spm")]:
            digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
        if len(texts) == 2:
            digest.update(hashlib.sha256(texts[folder / "vocabulary.json"]).digest())
        assert before == digest.hexdigest()
        changes = {
            "line ends": lambda text: text.replace(b"\n", b"\r\n"),
            "no last line end": lambda text: text.rstrip(b"\n"),
            "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
            "in one line": lambda text: json.dumps(json.loads(text)).encode(),
        }
        for name, change in changes.items():
            for path, text in texts.items():
                path.write_bytes(change(text))
            assert Tokenizer.load(folder).fingerprint == before, name
        Tokenizer.load(folder).copy_to(tmp_path / "copy")
        assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == texts[folder / "tokenizer.json"]
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(texts[path]) | {"bos_id": 4}))
        assert Tokenizer.load(folder).fingerprint != before


def test_damaged_files_are_named(tmp_path):
    Tokenizer.train(lines(), TokenizerConfig(vocab_size=300), tmp_path)
    description, model = tmp_path / "tokenizer.json", tmp_path / "sentencepiece.model"
    good, good_model = json.loads(description.read_text()), model.read_bytes()

    def told() -> str:
        with pytest.raises(UserError) as caught:
            Tokenizer.load(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for data in (b"", b"junk", good_model[:1000]):
        model.write_bytes(data)
        assert "sentencepiece.model: damaged" in told()
    model.unlink()
    assert "sentencepiece.model: no such file" in told()
    model.write_bytes(good_model)
    changes = [
        {"pad_id": 300},
        {"pad_id": -1},
        {"eos_id": "1"},
        {"source_model": "../x"},
        {"target_model": 3},
        {"vocabulary": []},
    ]
    for text in ("{", "[]", "3", "{}", *(json.dumps(good | change) for change in changes)):
        description.write_text(text)
        assert "tokenizer.json" in told()
    description.unlink()
    assert "tokenizer.json: no such file" in told()


def test_special_ids_are_one_record(tokenizer):
    ids = tokenizer.special_ids
    assert ids == SpecialIds(
        start=tokenizer.decoder_start_id, eos=tokenizer.eos_id, pad=tokenizer.pad_id, never_generated=(2, 3)
    )
    assert ids.never_generated == (tokenizer.unknown_id, tokenizer.bos_id)
