"""A search among a sentence's candidates: which they are, and that it finds what the search among all pieces would."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from helpers import FAMILIES, letters, random_parameters, tiny_config, tiny_model
from test_open_search import assert_all_alike

from transformer_jax.cli.shortlist import make_shortlist
from transformer_jax.cli.shortlist_job import ShortlistJob
from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data.lexical_table import lexical_table
from transformer_jax.data.store import Store
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.shortlist import SHORTLIST, Shortlist
from transformer_jax.tokenization.special_ids import SpecialIds
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation", "compiled_once")
LINES = [*letters(12, 9, seed=3), "", "h " * 20]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def make_translator(tokenizer, table, tmp_path, **model):
    """One whose tokenizer has the table."""
    config = Config()
    config.model = tiny_model(output_bias=True, **model)
    config.batch.max_length = 48
    config.decode.beam, config.decode.max_length_ratio, config.decode.max_length_extra = 3, 1.0, 3
    tokenizer.copy_to(tmp_path / "tokenizer")
    table.write(tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    model = build_model(config.model, tokenizer.vocab_size)
    params = random_parameters(model)
    # Pieces that are never generated have no probability: a search among all counts it, and one among candidates does not.
    ids = tokenizer.special_ids
    params["bias"][list({ids.start, ids.pad, *ids.never_generated} - {ids.eos})] = -1e9
    return Translator(model, params, tokenizer, config)


def some(tokenizer):
    """A table in which each piece may become three others."""
    pieces = np.arange(tokenizer.vocab_size)
    likely = np.stack([(pieces * 7 + shift) % tokenizer.vocab_size for shift in (1, 50, 120)], axis=1)
    return Shortlist(np.array([9, 40, 77], np.int32), likely.astype(np.int32))


def everything(tokenizer):
    return Shortlist(np.arange(tokenizer.vocab_size, dtype=np.int32), np.full((tokenizer.vocab_size, 1), -1, np.int32))


def test_pieces_that_come_together_are_in_the_table():
    """Source piece i becomes i + 50, sentences are in another order there, and two words say nothing of each other."""
    chance = np.random.default_rng(0)
    rows = [chance.choice(np.arange(5, 45), 6, replace=False) for _ in range(300)]
    targets = [chance.permutation(row) + 50 for row in rows]
    store = Store.of([np.append(row, 1) for row in rows], [np.append(row, 1) for row in targets])
    table = lexical_table(store, 60, 100, depth=3, frequent=4)
    assert table.likely.shape == (60, 4) and table.likely.dtype == np.int32
    np.testing.assert_array_equal(table.likely[:, 0], np.arange(60))  # a name may stay as it is
    np.testing.assert_array_equal(table.likely[5:45, 1], np.arange(5, 45) + 50)
    assert (table.likely[2:5, 1:] == -1).all()  # never seen
    counts = np.bincount(np.concatenate(targets), minlength=100)
    assert counts[table.frequent].min() >= np.sort(counts)[-4] and len({*table.frequent}) == 4
    apart = lexical_table(store, 60, 100, depth=3, same_pieces=False)
    np.testing.assert_array_equal(apart.likely, table.likely[:, 1:])


def test_a_row_of_candidates_depends_on_its_sentence_alone():
    table = Shortlist(np.array([7, 8], np.int32), np.array([[5, 9, -1], [7, 6, 5], [1, 2, 3]], np.int32))
    ids = SpecialIds(start=3, eos=1, pad=0, never_generated=(2,))
    rows = table.rows([np.array([0, 1]), np.array([2])], length=4, each=2, ids=ids)
    assert rows.shape == (2, 64)
    assert rows[0, :8].tolist() == [1, ~3, ~0, 7, 8, 5, 9, 6] and (rows[0, 8:] == ~0).all()
    assert rows[1, 3:].tolist() == [7, 8, *[~0] * 59]  # EOS is there already, and the others are never generated
    assert table.rows([np.array([0, 1])], length=40, each=2, ids=ids)[0, :64].tolist() == rows[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_among_all_pieces_it_finds_what_it_finds_without_a_table(family, tokenizer, tmp_path):
    tied = "none" if family == "Transformer" else "all"
    translator = make_translator(tokenizer, everything(tokenizer), tmp_path, tied_embeddings=tied, **FAMILIES[family])
    assert_same_with_table(translator, dict(nbest=2))


def assert_same_with_table(translator, options):
    found, expected = (translator.translate(LINES, shortlist=each, **options) for each in (1, 0))
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [[other.tokens for other in each.others] for each in found] == [
        [other.tokens for other in each.others] for each in expected
    ]
    np.testing.assert_allclose(*([each.log_prob for each in side] for side in (found, expected)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(beam=1),
        dict(beam=1, no_repeat_ngram=2, min_length_ratio=0.5),
        dict(nbest=3, coverage_penalty=0.2),
        dict(max_length_ratio=0.2),
        dict(beam=4, length_normalization="power", word_reward=0.1),
    ],
    ids=str,
)
def test_any_search_takes_a_table(options, tokenizer, tmp_path):
    assert_same_with_table(make_translator(tokenizer, everything(tokenizer), tmp_path, norm="pre"), options)


@pytest.mark.slow
def test_an_ensemble_and_an_open_search_take_a_table(tokenizer, tmp_path):
    one, other = (make_translator(tokenizer, some(tokenizer), tmp_path / n, norm="pre") for n in "ab")
    assert_all_alike(one, shortlist=3)
    assert_among_candidates(one, temperature=1.0, seed=3)
    both = one.together_with(other.with_params(random_parameters(other.model, 1)))
    assert_among_candidates(both)
    assert [each.tokens for each in one.together_with(one).translate(LINES, shortlist=2)] == [
        each.tokens for each in one.translate(LINES, shortlist=2)
    ]


def assert_among_candidates(translator, **options):
    tokenizer, lines = translator.tokenizer, [line for line in LINES if line]
    found = translator.translate(lines, shortlist=2, **options)
    for source, translation in zip(tokenizer.encode_source(lines), found, strict=True):
        assert {*translation.tokens} <= {tokenizer.eos_id, *tokenizer.shortlist.candidates(source, 2).tolist()}
    alone = [translator.translate([line], shortlist=2, **options)[0] for line in lines[-3:]]
    assert [each.tokens for each in alone] == [each.tokens for each in found[-3:]]


def test_translations_have_their_own_candidates_alone_whoever_is_beside_them(tokenizer, tmp_path):
    assert_among_candidates(make_translator(tokenizer, some(tokenizer), tmp_path, norm="pre"))


def test_what_cannot_be_is_told(tokenizer, tmp_path):
    config = Config()
    config.model = tiny_model()
    model = build_model(config.model, tokenizer.vocab_size)
    without = Translator(model, random_parameters(model), tokenizer, config)
    with pytest.raises(UserError, match="has no lexical table; transformer-jax shortlist makes it"):
        without.translate(["a"], shortlist=2)
    translator = make_translator(tokenizer, some(tokenizer), tmp_path)
    with pytest.raises(UserError, match="shortlist is for translations without prefixes, phrases and terms"):
        translator.translate(["a"], prefixes=["b"], shortlist=2)
    path = tmp_path / "tokenizer" / SHORTLIST
    for content in (path.read_bytes()[:-30], b"", None):
        if content is None:
            Shortlist(np.array([999], np.int32), some(tokenizer).likely).write(path.parent)
        else:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"shortlist\.npz: damaged; make it again"):
            Tokenizer.load(path.parent).shortlist  # noqa: B018
    config = tiny_config(tmp_path)
    config.decode.shortlist = 3
    with pytest.raises(UserError, match=r"decode\.shortlist=3 should be 0: its table is made of a finished run"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_makes_the_table_of_a_run(tmp_path, capsys, caplog):
    config = tiny_config(tmp_path)
    config.train.steps = config.train.evaluate_every = config.train.checkpoint_every = 1
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path / "run")
    make_shortlist(ShortlistJob(workdir=f"{tmp_path}/run"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{tmp_path}/run/tokenizer/shortlist.npz: of 167 pairs"  # 33 come twice
    shares = [float(line.split()[2].rstrip("%")) for line in printed[3:]]
    assert len(shares) == 5 and shares == sorted(shares) and 50 < shares[-1] <= 100
    table = Run(tmp_path / "run").tokenizer().shortlist
    assert table is not None and Translator.load(tmp_path / "run", "latest").translate(["a b"], shortlist=2)[0].tokens


@pytest.mark.slow
def test_the_command_takes_other_text(tmp_path):
    """In a process of its own: tokenising forks, which a process that has computed should not."""
    config = tiny_config(tmp_path)
    config.train.steps = config.train.evaluate_every = config.train.checkpoint_every = 1
    train(config, tmp_path / "run")
    sources = [f"--train={config.data.dev}", f"--dev={config.data.dev}"]
    command = [sys.executable, "-m", "transformer_jax", "shortlist", f"--workdir={tmp_path}/run", *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith("shortlist.npz: of 10 pairs")
    (tmp_path / "long.tsv").write_text("a\t" + "b " * 300 + "\n")
    command[-2:] = [f"--train={tmp_path}/long.tsv"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "long.tsv: no pair of it is left by the filters" in done.stderr.splitlines()[-1]
