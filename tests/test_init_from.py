"""A run that begins with the parameters of another that has other pieces or another model."""

import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import (
    FAMILIES,
    assert_same_runs,
    assert_trees_equal,
    each_family,
    letters,
    quick_config,
    random_parameters,
    tiny_model,
)

from transformer_jax.config import Config, DataConfig, TokenizerConfig, from_json, to_json, validate
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.marian import import_run
from transformer_jax.models.seq2seq import build_model, init_parameters
from transformer_jax.runs.progress import TrainProgress
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.piece_mapping import map_pieces, mapped_rows
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.init_from import first_parameters, first_tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

OLD = ["the old dog sees the street", "an old house is not the new house", "dogs and houses"] * 3
NEW = ["the newest doghouse is streetwise", "old € houses", "housedog and dogs are on the streets"] * 3
SPECIAL = ("pad_id", "unknown_id", "bos_id", "eos_id", "decoder_start_id")
KEY = jax.random.key(3)


def trained(folder: Path, lines: list[str], size: int, algorithm: str = "bpe") -> Tokenizer:
    return Tokenizer.train(lines, TokenizerConfig(vocab_size=size, algorithm=algorithm, vocab_may_shrink=True), folder)


def make_run(folder: Path, model, tokenizer_lines=OLD, size: int = 320) -> tuple[Config, Tokenizer, dict]:
    """A run with a checkpoint of random parameters that was never trained."""
    config = Config(model=model)
    config.tokenizer.vocab_size = size
    run = Run.open_or_create(folder, config)
    tokenizer = Tokenizer.train(tokenizer_lines, config.tokenizer, run.tokenizer_folder)
    params = random_parameters(build_model(model, tokenizer.vocab_size))
    with run.checkpoint_writer() as writer:
        state = SimpleNamespace(params=params, optimizer_state=None, ema=None)
        writer.save(state, TrainProgress(step=1, best_step=1, tokenizer=tokenizer.fingerprint))
    return config, tokenizer, params


def begun(config: Config, tokenizer: Tokenizer) -> dict:
    return first_parameters(config, build_model(config.model, tokenizer.vocab_size), tokenizer, KEY)


def own_config(folder: Path, **model) -> Config:
    config = Config(model=tiny_model(**model))
    config.train.init_from = str(folder)
    return config


# Pieces


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_piece_is_taken_or_is_made_of_the_pieces_that_its_text_has_there(tmp_path, algorithm):
    old, new = trained(tmp_path / "old", OLD, 320, algorithm), trained(tmp_path / "new", NEW, 330, algorithm)
    mapping, there = map_pieces(new, old), old.vocabulary()
    texts = old.pieces(range(old.vocab_size))
    counts = dict.fromkeys(("taken", "made", "fresh"), 0)
    special = {getattr(new, name): getattr(old, name) for name in SPECIAL}
    for row, (piece, parts) in enumerate(zip(new.pieces(range(new.vocab_size)), mapping.parts, strict=True)):
        if row in special or piece in there:
            assert parts == [special.get(row, there.get(piece))]
            counts["taken"] += 1
        elif not parts:
            counts["fresh"] += 1
        else:
            assert "".join(texts[part] for part in parts) == piece or "€" in piece
            counts["made"] += 1
    assert counts == {"taken": mapping.taken, "made": mapping.made, "fresh": mapping.fresh}
    assert counts["made"] > 3 and counts["taken"] > 260  # 256 of bytes
    # In the middle of a line, as the old tokenizer would read it there: no piece has a space that is not in the text.
    (row,) = [row for row, piece in enumerate(new.pieces(range(new.vocab_size))) if piece == "€"]
    assert b"".join(bytes([int(texts[part][3:5], 16)]) for part in mapping.parts[row]) == "€".encode()


def test_rows_are_plain_means(tmp_path):
    old, new = trained(tmp_path / "old", OLD, 320), trained(tmp_path / "new", NEW, 330)
    mapping = map_pieces(new, old)._replace(parts=[*map_pieces(new, old).parts[:-1], []])
    for table in (np.random.default_rng(0).standard_normal((320, 5)).astype(np.float32), np.arange(320, dtype=np.float32)):
        found = mapped_rows(table, mapping)
        assert found.shape == (330, *table.shape[1:]) and found.dtype == np.float32
        text = [row for row in range(320) if row not in {getattr(old, name) for name in SPECIAL}]
        for row, parts in enumerate(mapping.parts):
            expected = sum(table[part].astype(np.float64) for part in parts or text) / len(parts or text)
            np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-6)
            if len(parts) == 1:
                assert (found[row] == table[parts[0]]).all()


def test_of_an_imported_model_the_decoders_start_and_the_side_of_a_table_are_kept(tmp_path):
    """Marian's decoder starts with padding, and its source and target are cut by two models."""
    import_run(str(Path(__file__).parent / "marian" / "opus"), str(tmp_path / "opus"))
    old = Run(tmp_path / "opus").tokenizer()
    pieces = [piece for piece in old.vocabulary() if piece.isascii() and piece.isalpha()][:40]
    new = trained(tmp_path / "new", [f"{a}{b} {b}{a} {a}" for a, b in zip(pieces, pieces[::-1], strict=True)], 300)
    texts = old.pieces(range(old.vocab_size))
    for side in ("source", "target"):
        mapping = map_pieces(new, old, side)
        assert mapping.parts[new.decoder_start_id] == [old.decoder_start_id] == mapping.parts[new.pad_id]
        assert mapping.parts[new.eos_id] == [old.eos_id]
        made = [row for row, parts in enumerate(mapping.parts) if len(parts) > 1]
        assert made and all("".join(texts[i] for i in mapping.parts[row]) == new.pieces([row])[0] for row in made)


def test_the_source_may_have_had_a_vocabulary_of_its_own(tmp_path):
    """Its table's rows are those of its own vocabulary; the new run has one for both."""
    models = [trained(tmp_path / name, lines, 300).models()[0] for name, lines in (("a", OLD), ("b", NEW))]
    one, other = (Tokenizer.load(tmp_path / name) for name in "ab")
    target = other.pieces(range(other.vocab_size))
    source = [*one.pieces(range(4)), *one.pieces(range(4, one.vocab_size))[::-1]]
    ids = {"pad_id": 0, "eos_id": 1, "unknown_id": 2, "bos_id": 3, "decoder_start_id": 3}
    old = Tokenizer.of_models(models[0], models[1], target, ids, tmp_path / "old", source_pieces=source)
    new = trained(tmp_path / "new", OLD, 290)
    mapping = map_pieces(new, old, "source")
    assert mapping.taken > 200
    for piece, parts in zip(new.pieces(range(new.vocab_size)), mapping.parts, strict=True):
        if len(parts) == 1 and piece in source:
            assert source[parts[0]] == piece
    model = tiny_model(tied_embeddings="target", source_vocab_size=len(source))
    config = own_config(tmp_path / "run", tied_embeddings="target")
    config.train.init_tokenizer = "own"
    Run.open_or_create(tmp_path / "run", Config(model=model, data=DataConfig(train="")))
    assert first_tokenizer(config) is None
    config.model.source_vocab_size = len(source)
    with pytest.raises(UserError, match="source_vocab_size"):
        validate(config)


# Parameters


@pytest.mark.parametrize("tied", each_family("all", "none", "target", "none", "none"))
def test_a_run_with_its_own_tokenizer_has_the_other_parameters_as_they_are(tied, request, tmp_path, caplog):
    model = tiny_model(tied_embeddings=tied, output_bias=tied == "none", **FAMILIES[request.node.callspec.id])
    _, old, params = make_run(tmp_path / "run", model)
    new = trained(tmp_path / "new", NEW, 330)
    config = Config(model=model)
    config.train.init_from, config.train.init_tokenizer = str(tmp_path / "run"), "own"
    assert first_tokenizer(config) is None
    with caplog.at_level(logging.INFO):
        found = begun(config, new)
    mapping = map_pieces(new, old)
    for name, tree in params.items():
        if name.endswith("_embedding"):
            assert_trees_equal(found[name], {"table": mapped_rows(tree["table"], mapping)})
        elif name == "bias":
            assert_trees_equal(found[name], mapped_rows(tree, mapping))
        else:
            assert_trees_equal(found[name], tree)
    told = (
        f"of 330 pieces {mapping.taken:,} are taken, {mapping.made:,} begin with the mean of their parts, and {mapping.fresh:,}"
    )
    assert any(message.startswith(told) for message in caplog.messages)
    assert_trees_equal(begun(config, old), params)  # the same pieces again


@pytest.mark.parametrize(
    ("changes", "fresh"),
    each_family(
        (dict(num_layers=2, decoder_layers=1), "encoder_1"),
        (dict(autoregression="attention"), "decoder_0/attention, decoder_0/attention_residual, decoder_1/attention"),
        (dict(num_layers=2), "decoder_1, encoder_1_0"),
        (dict(attention="additive"), "attention/query, attention/vector"),
        (dict(tied_embeddings="none"), "output_embedding, source_embedding"),
    ),
)
def test_of_another_model_what_fits_is_taken_and_the_rest_is_fresh_and_named(changes, fresh, request, tmp_path, caplog):
    kind = FAMILIES[request.node.callspec.id]
    config, tokenizer, params = make_run(tmp_path / "run", tiny_model(**kind))
    own = own_config(tmp_path / "run", **kind | changes)
    own.tokenizer = config.tokenizer
    with pytest.raises(
        UserError, match=r"model\.\w+=.* should be .*, as in train\.init_from=.* --config=.*config\.json has it"
    ):
        first_tokenizer(own)
    own.train.init_model = "partial"
    assert first_tokenizer(own).fingerprint == tokenizer.fingerprint
    with caplog.at_level(logging.INFO):
        found = begun(own, tokenizer)
    expected = jax.device_get(init_parameters(build_model(own.model, tokenizer.vocab_size), KEY))
    (line,) = [message for message in caplog.messages if "are fresh" in message]
    for name in fresh.split(", "):
        assert name in line.partition("are fresh: ")[2]
    assert found.keys() == expected.keys()
    for path, leaf in jax.tree.leaves_with_path(found):
        there, new = params, expected
        for entry in path:
            there, new = there.get(entry.key, {}), new[entry.key]
        taken = isinstance(there, np.ndarray) and there.shape == leaf.shape
        np.testing.assert_array_equal(leaf, there if taken else new)


def test_what_is_left_behind_is_named_and_what_has_nothing_in_common_is_refused(tmp_path, caplog):
    config, tokenizer, _ = make_run(tmp_path / "run", tiny_model(num_layers=2))
    own = own_config(tmp_path / "run", feed_forward_width=32)
    own.tokenizer, own.train.init_model = config.tokenizer, "partial"
    with caplog.at_level(logging.INFO):
        begun(own, tokenizer)
    (fresh,) = [message for message in caplog.messages if "are fresh" in message]
    assert "encoder_0/feed_forward/inner/kernel" in fresh and "encoder_0/attention" not in fresh
    (left,) = [message for message in caplog.messages if message.startswith("not taken")]
    assert "decoder_1, " in left and left.endswith("encoder_1")
    own.model.width = 32
    with pytest.raises(UserError, match=r"no parameter of train\.init_from=.* has the name and shape of one here"):
        begun(own, tokenizer)


def test_only_what_is_asked_for_may_differ(tmp_path):
    make_run(tmp_path / "run", tiny_model())
    config = own_config(tmp_path / "run")
    config.tokenizer.vocab_size = 300
    config.train.init_model = "partial"
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=300 should be 320, as in train\.init_from="):
        first_tokenizer(config)
    config.train.init_model, config.train.init_tokenizer, config.model.heads = "same", "own", 4
    with pytest.raises(UserError, match=r"config: model\.heads=4 should be 2, as in train\.init_from="):
        first_tokenizer(config)


def test_the_keys_are_of_runs_that_begin_with_another(tmp_path):
    for name, value in (("init_tokenizer", "own"), ("init_model", "partial")):
        config = Config()
        setattr(config.train, name, value)
        with pytest.raises(UserError, match=rf"train\.{name}='{value}' should be same without train\.init_from"):
            validate(config)
        config.train.init_from = "runs/a"
        assert from_json(to_json(config)) == config


@pytest.mark.slow
def test_a_run_of_other_pieces_and_more_layers_resumes_exactly(tmp_path):
    config = quick_config(tmp_path)
    train(config, tmp_path / "base")
    lines = letters(80, 6, seed=7)
    text = tmp_path / "own.tsv"
    text.write_text("".join(f"{line} xyz\t{line[::-1]} zyx\n" for line in lines), encoding="utf-8")
    config.data.train, config.tokenizer.vocab_size, config.model.num_layers = str(text), 276, 2
    config.train.init_from, config.train.init_tokenizer, config.train.init_model = f"{tmp_path}/base:6", "own", "partial"
    train(config, tmp_path / "straight")
    config.train.steps = 3
    train(config, tmp_path / "resumed")
    config.train.steps = 6
    train(config, tmp_path / "resumed")
    assert_same_runs(tmp_path / "resumed", tmp_path / "straight", 6)
    assert Translator.load(tmp_path / "straight", "6").tokenizer.vocab_size == 276
