"""CTranslate2's models as ours: every kind of model and of weights, damaged and hostile files; where their package is
installed, the translations and probabilities that it gives."""

import dataclasses
import itertools
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ctranslate2_files import array, attributes_of, model_bin, quantized, string, variables_of, write_model
from helpers import assert_trees_equal, letters, random_parameters, tiny_config, tiny_model, write_tsv

from transformer_jax.cli.config_files import load_config
from transformer_jax.config import TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.ctranslate2_file import parse_model_file
from transformer_jax.interop.ctranslate2_reader import read_ctranslate2
from transformer_jax.interop.importing import import_run
from transformer_jax.models.layers import sinusoids
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
VARIANTS = [
    dict(norm=norm, tied_embeddings=tied, positions=positions) | more
    for (norm, tied, positions), more in zip(
        itertools.product(
            ("post", "pre"),
            ("all", "target", "none"),
            ("sinusoidal", "sinusoidal_concatenated", "sinusoidal_marian", "learned", "rotary"),
        ),
        itertools.cycle(
            [
                dict(activation="relu", output_bias=True),
                dict(activation="gelu", attention_bias=True),
                dict(activation="silu", scale_embedding=False),
                dict(activation="swiglu", key_width=4, value_width=12),
                dict(activation="gelu_exact", key_width=16, value_width=4, attention_bias=True),
                dict(activation="gelu_sigmoid", zero_start=True, decoder_layers=1),
                dict(activation="relu", key_width=4, value_width=6, decoder_layers=3),
            ]
        ),
    )
]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """The bytes of a model, and its pieces."""
    own = Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))
    return own.models()[0], own.pieces(range(own.vocab_size))


def with_own_specials(pieces: list[str]) -> list[str]:
    """A vocabulary as OpenNMT has it, without bytes."""
    return ["<unk>", "<blank>", "<s>", "</s>", *[piece for piece in pieces if not piece.startswith("<")]]


@pytest.fixture(scope="module")
def small(sentencepiece):
    """The variables of a small model, its vocabulary, and the SentencePiece model."""
    vocabulary = with_own_specials(sentencepiece[1])
    config = tiny_model(norm="pre", attention_bias=True, output_bias=True)
    params = random_parameters(build_model(config, len(vocabulary)))
    return variables_of(config, params, len(vocabulary)), vocabulary, sentencepiece[0], config, params


def parameters(folder: Path):
    foreign = read_ctranslate2(folder)
    return foreign.model, foreign.parameters()


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
def test_every_model_comes_back_with_the_same_bits(options, sentencepiece, tmp_path):
    model, pieces = sentencepiece
    if options["positions"] == "learned":
        options = options | dict(max_positions=64)
    if options["positions"].startswith("sinusoidal"):
        options = options | dict(first_position=len(options["norm"]) - 3)  # 0 with pre, 1 with post
    config = tiny_model(num_layers=2, norm_epsilon=1e-4, **options)
    params = random_parameters(build_model(config, len(pieces)))
    variables = variables_of(config, params, len(pieces))
    write_model(tmp_path / "model", variables, pieces, model, layer_norm_epsilon=1e-4)
    found, again = parameters(tmp_path / "model")
    assert_trees_equal(again, params)
    config.decoder_layers = config.decoder_depth
    narrow = dict(
        key_width=config.key_width, value_width=0 if config.value_width == config.key_head_width else config.value_width
    )
    assert found == dataclasses.replace(config, dropout=0.1, compute_dtype="auto", **narrow)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int16", "int8"])
def test_weights_of_every_type_are_what_their_formula_gives(kind, small, tmp_path):
    variables, vocabulary, model, _, params = small
    stored, expected = {}, {}
    for name, value in variables.items():
        is_matrix = np.ndim(value) == 2 and not name.endswith("encodings")
        parts = quantized(value, kind) if is_matrix else {"": value}
        stored |= {f"{name}{end}": part for end, part in parts.items()}
        scale = np.asarray(parts.get("_scale", 1), np.float32)
        numbers = np.asarray(parts[""]).astype(np.float32)
        expected[name] = numbers / (scale[:, None] if scale.ndim else scale)
    write_model(tmp_path / "model", stored, vocabulary, model)
    write_model(
        tmp_path / "float32", {**variables, **{k: v for k, v in expected.items() if np.ndim(v) == 2}}, vocabulary, model
    )
    found, same = parameters(tmp_path / "model")[1], parameters(tmp_path / "float32")[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), found, same)
    error = {"float16": 1e-3, "bfloat16": 1e-2, "int16": 2e-3, "int8": 2e-2}[kind]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=error), found, params)
    assert np.abs(found["target_embedding"]["table"] - params["target_embedding"]["table"]).max() > 0


def test_scales_of_older_versions(small, tmp_path):
    """int8 with one scale for all rows, and int16 without any: it was 1000."""
    variables, vocabulary, model, _, _ = small
    stored = dict(variables)
    table, kernel = "decoder/projection/weight", "decoder/layer_0/ffn/linear_0/weight"
    stored[table], stored[f"{table}_scale"] = np.rint(variables[table] * 50).astype(np.int8), np.float32(50)
    stored[kernel] = np.rint(variables[kernel] * 1000).astype(np.int16)
    write_model(tmp_path / "model", stored, vocabulary, model)
    found, again = parameters(tmp_path / "model")
    assert found.tied_embeddings == "none"  # it is another table now
    np.testing.assert_allclose(again["output_embedding"]["table"], stored[table] / 50, rtol=1e-6)
    inner = again["decoder_0"]["feed_forward"]["inner"]["kernel"]
    np.testing.assert_allclose(inner, stored[kernel].T / 1000, rtol=1e-6)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_files_of_older_versions(version, small, tmp_path):
    """Attributes of the whole model, tokens among the variables, one scope of embeddings, numbers by their size."""
    variables, vocabulary, model, config, params = small
    sides = {name for name in attributes_of(config) if name.count("/") == 1}
    stored = {name: value for name, value in variables.items() if name not in sides and not name.endswith("head_dim")}
    stored["encoder/embeddings/weight"] = stored.pop("encoder/embeddings_0/weight")
    stored |= {"num_heads": np.int8(2), "pre_norm": np.int8(1), "with_source_eos": np.int8(1), "with_target_bos": np.int8(0)}
    stored["unk_token"] = np.frombuffer(b"<unk>", np.int8)
    folder = write_model(tmp_path / "model", variables, vocabulary, model)
    (folder / "config.json").unlink()
    (folder / "model.bin").write_bytes(model_bin(stored, version=version, revision=4))
    foreign = read_ctranslate2(folder)
    assert foreign.model.heads == 2 and foreign.model.norm == "pre"
    assert_trees_equal(foreign.parameters(), params)
    tokenizer = foreign.tokenizer(tmp_path / "tokenizer")
    assert tokenizer.source_eos and tokenizer.decoder_start_id == tokenizer.eos_id == 3


def test_aliases_stand_for_their_variables_and_scales(small, tmp_path):
    variables, vocabulary, model, _, _ = small
    stored, table = dict(variables), "decoder/embeddings/weight"
    for name in ("encoder/embeddings_0/weight", "decoder/projection/weight"):
        del stored[name]
    stored |= {f"{table}{end}": part for end, part in quantized(variables[table], "int8").items()}
    aliases = {"encoder/embeddings_0/weight": table, "decoder/projection/weight": table}
    found, again = parameters(write_model(tmp_path / "model", stored, vocabulary, model, aliases))
    assert found.tied_embeddings == "all"
    expected = stored[table] / stored[f"{table}_scale"][:, None]
    np.testing.assert_allclose(again["target_embedding"]["table"], expected, rtol=1e-6)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_tables_of_sinusoids_are_known_wherever_they_begin(first, small, tmp_path):
    variables, vocabulary, model, _, _ = small
    table = np.array(sinusoids(first + jnp.arange(50), 16, "sinusoidal_marian"))
    tables = {f"{side}/position_encodings/encodings": table for side in ("encoder", "decoder")}
    found, _ = parameters(write_model(tmp_path / "model", variables | tables, vocabulary, model))
    assert (found.positions, found.first_position) == ("sinusoidal_marian", first)
    if first == 1:  # which are those that CTranslate2 makes without a table
        without = {name: value for name, value in variables.items() if not name.endswith("encodings")}
        assert parameters(write_model(tmp_path / "none", without, vocabulary, model))[0] == found


def test_tables_that_are_no_sinusoids_or_differ_are_learned_positions(small, tmp_path):
    variables, vocabulary, model, _, _ = small
    encoder, decoder = (
        np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32) for seed, rows in ((0, 40), (1, 30))
    )
    for name, source, expected in (("both", encoder, encoder[:30]), ("one", None, None)):
        stored = variables | {"decoder/position_encodings/encodings": decoder}
        stored["encoder/position_encodings/encodings"] = (
            variables["encoder/position_encodings/encodings"] if source is None else source
        )
        folder = write_model(tmp_path / name, stored, vocabulary, model)
        foreign = read_ctranslate2(folder)
        assert (foreign.model.positions, foreign.model.max_positions, foreign.longest) == ("learned", 30, 30)
        found = foreign.parameters()
        np.testing.assert_array_equal(found["target_positions"], decoder)
        expected = sinusoids(jnp.arange(30), 16) if expected is None else expected
        np.testing.assert_array_equal(found["source_positions"], expected)


def test_neighbours_that_are_rotated_together_go_into_the_two_halves(sentencepiece, tmp_path):
    """CTranslate2 rotates x[2i] and x[2i + 1] by one angle, the model here x[i] and x[i + K/2]."""
    model, pieces = sentencepiece
    config = tiny_model(positions="rotary", attention_bias=True)
    params = random_parameters(build_model(config, len(pieces)))
    variables = variables_of(config, params, len(pieces))
    variables |= {name: np.int8(1) for name in variables if name.endswith("rotary_interleave")}
    variables |= {name: np.int32(0) for name in variables if name.endswith("rotary_dim")}  # 0: all dimensions
    _, found = parameters(write_model(tmp_path / "model", variables, pieces, model))
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    before, after = (tree["decoder_0"]["attention"]["query_key_value"] for tree in (params, found))
    np.testing.assert_array_equal(after["kernel"][:, :2], before["kernel"][:, :2][..., order])
    np.testing.assert_array_equal(after["bias"][:2], before["bias"][:2][..., order])
    np.testing.assert_array_equal(after["kernel"][:, 2], before["kernel"][:, 2])


def test_another_scale_of_queries_is_part_of_their_kernel(small, tmp_path):
    variables, vocabulary, model, _, params = small
    stored = variables | {"decoder/layer_0/attention/queries_scale": np.float32(1)}
    _, found = parameters(write_model(tmp_path / "model", stored, vocabulary, model))
    before, after = (tree["decoder_0"]["cross_attention"]["query"] for tree in (params, found))
    for part in ("kernel", "bias"):
        np.testing.assert_allclose(after[part], before[part] * 8**0.5, rtol=1e-6)


def told(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_ctranslate2(folder)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000 and message.isprintable()
    return message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"encoder/layer_0/self_attention/relative_position_keys": np.ones((3, 8), np.float32)},
            "self_attention/relative_position_keys",
        ),
        ({"encoder/layernorm_embedding/gamma": np.ones(16, np.float32)}, "encoder/layernorm_embedding/gamma"),
        ({"encoder/embeddings_1/weight": np.ones((3, 16), np.float32)}, "encoder/embeddings_1/weight"),
        ({"decoder/alibi": np.int8(1)}, "decoder/alibi: 1 (expected 0)"),
        ({"decoder/scale_outputs": np.float32(0.5)}, "decoder/scale_outputs: 0.5 (expected 1)"),
        ({"decoder/activation": np.int8(1)}, "encoder/activation: 0, decoder/activation: 1 (expected the same)"),
        ({f"{side}/activation": np.int8(5) for side in ("encoder", "decoder")}, "encoder/activation: Tanh (expected GELU or"),
        ({"encoder/scale_embeddings": np.float32(3)}, "encoder/scale_embeddings: 3.0 (expected 1 or 16**0.5)"),
        ({"encoder/scale_embeddings": np.int8(0)}, "scale_embeddings of encoder and decoder differ"),
        ({"encoder/layer_0/self_attention/num_heads_kv": np.int32(1)}, "num_heads_kv: 1 (expected 2)"),
        ({"encoder/layer_0/self_attention/rotary_dim": np.int32(4)}, "head_dim or rotary_dim differ"),
        ({"encoder/num_heads": np.int16(0), "decoder/num_heads": np.int16(0)}, "encoder/num_heads: 0 (expected 1 to 16)"),
        ({"encoder/layer_0/ffn/layer_norm/beta": None}, "norms without beta, RMSNorm"),
        ({"decoder/layer_norm/gamma": None, "decoder/layer_norm/beta": None}, "pre_norm without a norm after the last layer"),
        ({f"{side}/pre_norm": np.int8(0) for side in ("encoder", "decoder")}, "decoder/layer_norm/beta (expected no such"),
        ({"decoder/layer_2/ffn/linear_0/bias": np.ones(24, np.float32)}, "decoder/layer_2/ffn/linear_0/bias (expected no such"),
        ({"decoder/layer_0/ffn/linear_0/weight": np.ones((25, 16), np.float32)}, "has shape (25, 16) instead of (24, 16)"),
        ({"decoder/layer_0/ffn/linear_0/weight": None}, "decoder/layer_0/ffn/linear_0/weight is missing"),
        ({"decoder/layer_0/ffn/linear_0/weight": np.full((24, 16), np.nan, np.float32)}, "holds what is no finite number"),
        ({"decoder/layer_0/ffn/linear_0/weight": np.ones((24, 16), np.int8)}, "is of int8 and needs a"),
        (
            {
                "decoder/layer_0/ffn/linear_0/weight": np.arange(384).reshape(24, 16).astype(np.int8),
                "decoder/layer_0/ffn/linear_0/weight_scale": np.zeros(24, np.float32),
            },
            "holds what is no finite number",
        ),
        ({"encoder/num_heads": np.ones(2, np.int16)}, "encoder/num_heads should be a number"),
        ({"encoder/position_encodings/encodings": np.ones((9, 8), np.float32)}, "has shape (9, 8) instead of (9, 16)"),
        ({"encoder/position_encodings/encodings": np.ones((0, 16), np.float32)}, "instead of a matrix"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_model_of_ours_has_is_named(changes, expected, small, tmp_path):
    variables, vocabulary, model, _, _ = small
    stored = {name: value for name, value in (variables | changes).items() if value is not None}
    assert expected in told(write_model(tmp_path / "model", stored, vocabulary, model))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(eos_token=3), "eos_token: 3 (expected a token)"),
        (dict(eos_token="<end>"), "eos_token: '<end>' (expected a piece of the target)"),
        (dict(decoder_start_token=None), "decoder_start_token: null, it is given with each text"),
        (dict(decoder_start_token="<deu>"), "decoder_start_token: '<deu>' (expected a piece of the target)"),
        (dict(add_source_eos="yes"), "add_source_eos: 'yes' (expected true or false)"),
        (dict(layer_norm_epsilon=-1), "layer_norm_epsilon: -1 (expected a number above 0"),
        (dict(quantization_type=1), "quantization_type: 1 (expected none"),
    ],
    ids=str,
)
def test_what_the_config_says_wrong_is_named(options, expected, small, tmp_path):
    variables, vocabulary, model, _, _ = small
    assert expected in told(write_model(tmp_path / "model", variables, vocabulary, model, **options))


def test_files_that_are_missing_or_damaged_are_named(small, sentencepiece, tmp_path):
    variables, vocabulary, model, _, _ = small
    folder = write_model(tmp_path / "model", variables, vocabulary, model)
    for name, content, expected in (
        ("shared_vocabulary.json", b"{}", "shared_vocabulary.json: damaged, expected a list of texts"),
        ("shared_vocabulary.json", b"[[", "shared_vocabulary.json: damaged, expected JSON"),
        ("shared_vocabulary.json", json.dumps([*vocabulary, "x"]).encode(), "and the embedding "),
        ("shared_vocabulary.json", None, "expected a shared_vocabulary, or a source_vocabulary and a target_vocabulary"),
        ("config.json", b"[]", "config.json: damaged, expected JSON"),
        ("config.json", None, "config.json: no such file; expected the special tokens there"),
        ("sentencepiece.model", b"x", "sentencepiece.model: damaged, not a SentencePiece model"),
        ("sentencepiece.model", None, "expected a sentencepiece.model, or source.spm and target.spm"),
        ("transformer_jax.json", b'{"decode": {"beams": 3}}', "transformer_jax.json: decode: unknown key 'beams'"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content) if content is not None else (folder / name).unlink()
        assert expected in told(folder)
        (folder / name).write_bytes(before) if before is not None else (folder / name).unlink()
    (folder / "shared_vocabulary.json").write_text(json.dumps([f"{piece}@@" for piece in vocabulary[4:]] + vocabulary[:4]))
    assert "has no piece of the vocabulary in common" in told(folder)


def test_a_file_that_ends_too_early_is_damaged_wherever_it_ends(small):
    variables = small[0]
    few = {name: variables[name] for name in ("encoder/num_heads", "encoder/layer_norm/gamma", "decoder/projection/bias")}
    content = model_bin(few, {"encoder/x": "encoder/layer_norm/gamma"})
    assert parse_model_file(content, "here").variables.keys() == {*few, "encoder/x"}
    for end in range(len(content)):
        with pytest.raises(UserError, match=r"^here: not a whole CTranslate2 model \(byte"):
            parse_model_file(content[:end], "here")
    with pytest.raises(UserError, match="3 bytes follow its end"):
        parse_model_file(content + b"abc", "here")


def _header(variables: int) -> bytes:
    return struct.pack("<I", 6) + string("TransformerSpec") + struct.pack("<II", 7, variables)


_ONE = array("a", np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PK\3\4" + b"\0" * 99, "version 67324752 of the format, expected 2 to 6"),
        (_header(2**32 - 1) + _ONE, "byte 56: the name of a variable needs 2 bytes, and 0 are left"),
        (
            _header(1) + string("a") + struct.pack("<B4I", 4, *[2**32 - 1] * 4) + struct.pack("<BI", 0, 2**32 - 4),
            "has 4,294,967,292 bytes",
        ),
        (_header(1) + string("a") + struct.pack("<BI", 1, 2**30) + struct.pack("<BI", 0, 2**32 - 4), "has 4,294,967,292 bytes"),
        (
            _header(1) + string("a") + struct.pack("<BI", 1, 2**29) + struct.pack("<BI", 0, 2**31),
            "needs 2,147,483,648 bytes, and 0",
        ),
        (_header(1) + string("a") + struct.pack("<B", 255) + b"\1" * 1020, "a has 255 axes, expected 4 at most"),
        (_header(1) + string("a") + struct.pack("<BBI", 0, 77, 4) + b"\0" * 4, "a is of the unknown type 77"),
        (_header(2) + _ONE + _ONE, "a comes twice"),
        (_header(1) + _ONE + struct.pack("<I", 1) + string("b") + string("c"), "b stands for c, which is not there"),
        (_header(1) + _ONE + struct.pack("<I", 1) + string("a") + string("a"), "a comes twice"),
        (_header(1) + struct.pack("<H", 0) + _ONE[3:], "is not UTF-8 with a NUL at the end"),
        (_header(1) + string(b"\xff\xfe") + _ONE[4:], "is not UTF-8 with a NUL at the end"),
        (_header(1) + string("\x1b[2J\n" * 5000) + struct.pack("<BI", 1, 3), r"'\x1b[2J\n\x1b"),
    ],
    ids=range(13),
)
def test_hostile_files_are_refused_in_one_line(content, expected, tmp_path):
    (tmp_path / "model.bin").write_bytes(content)
    assert expected in told(tmp_path)


def test_variables_with_odd_names_are_named_readably(small, tmp_path):
    variables, vocabulary, model, _, _ = small
    odd = {
        "encoder/\x1b[31m\n/weight": np.ones(1, np.float32),
        "../../etc/passwd": np.ones(1, np.float32),
        "é" * 9999: np.int8(1),
    }
    odd |= {"encoder/layer_99999999999999999999/ffn/linear_0/bias": np.ones(1, np.float32)}
    message = told(write_model(tmp_path / "model", variables | odd, vocabulary, model))
    assert "../../etc/passwd (expected no such variable)" in message


def test_vocabularies_of_their_own_have_special_pieces_in_the_same_rows(sentencepiece, tmp_path):
    """The source's has other sizes, orders and no BOS; its rows go along."""
    model, pieces = sentencepiece
    target = with_own_specials(pieces)
    source = [*target[4:12], "</s>", "<unk>", *target[14:]]  # shorter, EOS and unknown elsewhere, no padding
    config = tiny_model(tied_embeddings="target", source_vocab_size=len(source))
    params = random_parameters(build_model(config, len(target)))
    variables = variables_of(config, params, len(target))
    folder = write_model(tmp_path / "model", variables, target, model, source=source, add_source_eos=True)
    foreign = read_ctranslate2(folder)
    tokenizer = foreign.tokenizer(tmp_path / "tokenizer")
    found, before = foreign.parameters()["source_embedding"]["table"], params["source_embedding"]["table"]
    assert foreign.model.source_vocab_size == tokenizer.source_vocab_size == len(found) == len(source) + 1  # padding
    listed = tokenizer.source_pieces(range(tokenizer.source_vocab_size))
    for piece, row in zip(listed, found, strict=True):
        np.testing.assert_array_equal(row, before[source.index(piece)] if piece in source else 0 * row)
    assert (listed[tokenizer.eos_id], listed[tokenizer.unknown_id], listed[tokenizer.pad_id]) == ("</s>", "<unk>", "<blank>")
    own = Tokenizer.of_models(
        model, model, target, {**dict(pad_id=1, unknown_id=0, bos_id=2, eos_id=3), "decoder_start_id": 2}, tmp_path / "t"
    )
    for line in ("a b c", "h g </s>", ""):
        (ids,), (expected,) = tokenizer.encode_source([line]), own.encode_target([line])
        wanted = [piece if piece in source else "<unk>" for piece in own.pieces(expected)]
        assert tokenizer.source_pieces(ids) == wanted
        assert tokenizer.encode_target([line])[0].tolist() == expected.tolist()
    assert Tokenizer.load(tmp_path / "tokenizer").fingerprint == tokenizer.fingerprint != own.fingerprint
    tokenizer.copy_to(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(("bos", "eos"), [(a, b) for a in (False, True) for b in (False, True)])
def test_sources_have_the_marks_that_the_config_names(bos, eos, small, tmp_path):
    variables, vocabulary, model, _, _ = small
    folder = write_model(tmp_path / "model", variables, vocabulary, model, add_source_bos=bos, add_source_eos=eos)
    tokenizer = read_ctranslate2(folder).tokenizer(tmp_path / "tokenizer")
    full, empty = (tokenizer.source_pieces(ids) for ids in tokenizer.encode_source(["a b", ""]))
    assert full == ["<s>"] * bos + tokenizer.source_pieces(tokenizer.encode_source(["a b"], add_eos=False)[0]) + ["</s>"] * eos
    assert empty == ["<s>"] * bos + ["</s>"]  # no row is empty
    assert tokenizer.pieces(tokenizer.encode_target(["a b"])[0])[-1] == "</s>"


def test_plain_vocabularies_and_pieces_that_come_twice(small, tmp_path):
    variables, vocabulary, model, _, _ = small
    folder = write_model(tmp_path / "model", variables, vocabulary, model)
    (folder / "shared_vocabulary.json").unlink()
    for listed, end, expected in (
        (vocabulary, "\n", vocabulary),
        (vocabulary, "\r\n", vocabulary),
        ([*vocabulary[:-1], "</s>"], "\n", [*vocabulary[:-1], f"<row {len(vocabulary) - 1}>"]),
        (vocabulary[:-2], "\n", [*vocabulary[:-2], f"<row {len(vocabulary) - 2}>", f"<row {len(vocabulary) - 1}>"]),
        (vocabulary[1:], "\n", [*vocabulary[1:], "<unk>"]),  # CTranslate2 appends it, too
    ):
        (folder / "shared_vocabulary.txt").write_bytes(end.join([*listed, ""]).encode())
        foreign = read_ctranslate2(folder)
        tokenizer = foreign.tokenizer(tmp_path / "tokenizer")
        assert tokenizer.pieces(range(tokenizer.vocab_size)) == expected
        assert ("twice" in " ".join(foreign.notes)) == (listed.count("</s>") == 2)


def argos_package(folder: Path, small, **options) -> Path:
    variables, vocabulary, model, _, _ = small
    write_model(folder / "model", variables, vocabulary, model, **options)
    (folder / "model" / "sentencepiece.model").rename(folder / "sentencepiece.model")
    metadata = {"package_version": "1.0", "argos_version": "1.5", "from_code": "fr", "to_code": "it", "target_prefix": "__it__"}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_an_argos_package_is_imported_packed_or_not(small, tmp_path):
    folder = argos_package(tmp_path / "translate-fr_it-1_0", small, alignment_heads=3, novelty=4)
    packed = tmp_path / "translate-fr_it-1_0.argosmodel"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(tmp_path))
    found = [read_ctranslate2(path) for path in (folder, folder / "model", packed)]
    for number, foreign in enumerate(found):
        assert foreign.languages == ("fr", "it")
        assert foreign.decode == {"length_penalty": 0.2, "length_normalization": "power"}
        assert foreign.notes[0] == "of config.json not taken over: novelty: 4"
        assert "target_prefix '__it__'" in foreign.notes[1]
        assert_trees_equal(foreign.parameters(), small[4])
        tokenizer = foreign.tokenizer(tmp_path / f"tokenizer{number}")
        assert not tokenizer.source_eos and tokenizer.decode([tokenizer.encode_target(["a b"])[0]]) == ["a b"]
    assert len({Tokenizer.load(tmp_path / f"tokenizer{number}").fingerprint for number in range(3)}) == 1


def test_packages_that_are_damaged_or_bombs_are_refused(small, tmp_path):
    packed = tmp_path / "x.argosmodel"
    packed.write_bytes(b"PK")
    assert "not a whole zip file" in told(packed)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("x/model/model.bin", b"\0" * 10**7)
    assert "bytes would become 10,000,000" in told(packed)
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("x/readme", b"")
    assert "has 0 files model.bin" in told(packed)
    folder = argos_package(tmp_path / "p", small)
    with zipfile.ZipFile(packed, "w") as file:
        for path in folder.rglob("*.*"):
            file.write(path, path.relative_to(tmp_path))
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(bytes(content))
    assert "x.argosmodel" in told(packed)
    (folder / "sentencepiece.model").rename(folder / "bpe.model")
    assert "found a bpe.model, of Moses and subword-nmt" in told(folder)


@pytest.mark.slow
def test_an_imported_run_translates_is_scored_and_is_trained_on(small, tmp_path):
    """Also without EOS on the source's side, and with a vocabulary of the source's own."""
    _, vocabulary, model, _, _ = small
    source = [*vocabulary[:4], *vocabulary[6:]]
    config = tiny_model(norm="pre", tied_embeddings="target", source_vocab_size=len(source))
    params = random_parameters(build_model(config, len(vocabulary)))
    write_model(tmp_path / "model", variables_of(config, params, len(vocabulary)), vocabulary, model, source=source)
    command = [sys.executable, "-m", "transformer_jax", "import", str(tmp_path / "model"), str(tmp_path / "run")]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    translator = Translator.load(tmp_path / "run")
    assert_trees_equal(translator.params, params)
    lines = letters(6, 5, seed=1)
    assert [each.text for each in translator.translate([*lines, ""])][-1] == ""
    scores = [each.log_prob for each in translator.score(lines, lines)]
    assert np.isfinite(scores).all()
    text = write_tsv(tmp_path / "text.tsv", letters(40, 5), letters(40, 5))
    changes = dict(init_from=tmp_path / "run", steps=4, evaluate_every=4, checkpoint_every=4, log_every=2)
    overrides = [f"train.{name}={value}" for name, value in changes.items()] + ["batch.row_multiple=2", "batch.tokens=128"]
    tuned = load_config(str(tmp_path / "run" / "config.json"), [*overrides, f"data.train={text}", f"data.dev={text}"])
    train(tuned, str(tmp_path / "tuned"))
    again = Translator.load(tmp_path / "tuned")
    assert again.tokenizer.fingerprint == translator.tokenizer.fingerprint
    assert again.params["source_embedding"]["table"].shape == (len(source), 16)
    with pytest.raises(UserError, match=r"data\.train: join= is for sources that have EOS at the end"):
        joined = load_config(
            str(tmp_path / "run" / "config.json"), [*overrides, f"data.train={text} (join=0.5:2)", f"data.dev={text}"]
        )
        train(joined, str(tmp_path / "joined"))
    fresh = tiny_config(tmp_path)
    fresh.model = config
    with pytest.raises(UserError, match=r"model\.source_vocab_size=\d+ should be 0: tokenizers that are trained here"):
        train(fresh, str(tmp_path / "fresh"))


def test_a_run_whose_config_and_tokenizer_differ_is_refused(small, tmp_path):
    variables, vocabulary, model, _, _ = small
    import_run(str(write_model(tmp_path / "model", variables, vocabulary, model)), str(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["model"] |= {"source_vocab_size": 7, "tied_embeddings": "none"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: model\.source_vocab_size=7 should be \d+, the source's pieces"):
        Run(tmp_path / "run").tokenizer()


def converted(kind: str, pieces: list[str]):
    """A small random model as CTranslate2's converters of OpenNMT-py, Marian and fairseq make it."""
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.common_spec import Activation

    random = np.random.default_rng(len(kind))
    target = ["</s>", "<unk>", *pieces] if kind == "Marian" else with_own_specials(["<", *pieces])
    source = target[:-3] if kind == "OpenNMT" else target
    activation = {"OpenNMT": Activation.GELU, "Marian": Activation.SWISH, "fairseq": Activation.RELU}[kind]
    spec = TransformerSpec.from_config((2, 1), 2, pre_norm=kind == "OpenNMT", activation=activation)
    width, inner = 16, 24

    def fill(layer, name: str, *shape: int) -> None:
        noise = random.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.2)
        setattr(layer, name, (noise + (name == "gamma")).astype(np.float32))

    def attention(layer, parts) -> None:
        for linear, rows in zip(layer.linear, [*parts, 1], strict=True):
            fill(linear, "weight", rows * width, width)
            fill(linear, "bias", rows * width)
        fill(layer.layer_norm, "gamma", width), fill(layer.layer_norm, "beta", width)

    for side, size in ((spec.encoder, len(source)), (spec.decoder, len(target))):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        fill(embeddings, "weight", size, width)
        for layer in side.layer:
            attention(layer.self_attention, [3])
            if side is spec.decoder:
                attention(layer.attention, [1, 2])
            fill(layer.ffn.linear_0, "weight", inner, width), fill(layer.ffn.linear_0, "bias", inner)
            fill(layer.ffn.linear_1, "weight", width, inner), fill(layer.ffn.linear_1, "bias", width)
            fill(layer.ffn.layer_norm, "gamma", width), fill(layer.ffn.layer_norm, "beta", width)
        if kind == "OpenNMT":
            fill(side.layer_norm, "gamma", width), fill(side.layer_norm, "beta", width)
            side.position_encodings.encodings = np.array(sinusoids(jnp.arange(100), width))
        if kind == "fairseq":
            side.position_encodings.encodings = np.array(sinusoids(2 + jnp.arange(100), width, "sinusoidal_marian"))
            side.scale_embeddings = float(width) ** 0.5
        # Marian's here without a table, so that CTranslate2 makes its own, which begins at position 1
    fill(spec.decoder.projection, "weight", len(target), width), fill(spec.decoder.projection, "bias", len(target))
    if kind != "OpenNMT":
        spec.decoder.embeddings.weight = spec.decoder.projection.weight
        spec.encoder.embeddings[0].weight = spec.decoder.projection.weight
        spec.config.add_source_eos = True
    spec.decoder.projection.bias[target.index("</s>")] += 2  # translations end
    never = [target.index(piece) for piece in ("<unk>", "<s>", "<blank>") if piece in target]  # theirs might generate them
    spec.decoder.projection.bias[never] = -1e4
    spec.decoder.start_from_zero_embedding = kind == "Marian"
    spec.config.decoder_start_token = "<s>" if kind == "OpenNMT" else "</s>"
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    return spec


@pytest.mark.interop
@pytest.mark.parametrize("quantization", [None, "float16", "int16", "int8"])
@pytest.mark.parametrize("kind", ["OpenNMT", "Marian", "fairseq"])
def test_their_package_translates_and_scores_the_same(kind, quantization, sentencepiece, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed; make test-interop installs it")
    model, pieces = sentencepiece
    spec = converted(kind, [piece for piece in pieces if not piece.startswith("<")])
    spec.validate()
    spec.optimize(quantization)
    (tmp_path / "model").mkdir()
    spec.save(str(tmp_path / "model"))
    (tmp_path / "model" / "sentencepiece.model").write_bytes(model)
    assert import_run(str(tmp_path / "model"), str(tmp_path / "run")) == []
    ours, theirs = Translator.load(tmp_path / "run"), ctranslate2.Translator(str(tmp_path / "model"), compute_type="float32")
    tokenizer, lines, targets = ours.tokenizer, letters(12, 9, seed=5), letters(12, 9, seed=6)
    assert tokenizer.has_source_vocabulary == (kind == "OpenNMT") and tokenizer.source_eos == (kind != "OpenNMT")
    rows = [tokenizer.source_pieces(row) for row in tokenizer.encode_source(lines, add_eos=False)]
    scored = theirs.score_batch(rows, [tokenizer.pieces(row) for row in tokenizer.encode_target(targets, add_eos=False)])
    for expected, found in zip(scored, ours.score(lines, targets), strict=True):
        np.testing.assert_allclose(found.token_log_probs, expected.log_probs, atol=1e-3)
    # Greedily: a beam is another search with a shortest length. At the limit theirs cuts, and here EOS is forced.
    lengths = dict(max_length_ratio=0, max_length_extra=20, min_length_extra=4)  # with EOS
    found = ours.translate(lines, beam=1, length_penalty=0, **lengths)
    expected = theirs.translate_batch(rows, beam_size=1, min_decoding_length=3, max_decoding_length=20)
    assert [tokenizer.pieces(each.tokens[:-1]) for each in found] == [each.hypotheses[0][:19] for each in expected]
    assert len({each.tokens for each in found}) > 1


@pytest.mark.interop
def test_a_run_that_was_exported_comes_back_whole(tmp_path):
    """The same bits, the same search, the same translations; and from 8 bits nearly the same probabilities."""
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed; make test-interop installs it")
    from transformer_jax.interop.ctranslate2 import export

    run = Path(__file__).parent / "runs" / "9f7c919"
    before = Translator.load(run, "latest")
    for quantization in ("float32", "int8"):
        export(str(run), str(tmp_path / quantization), "latest", quantization)
        assert import_run(str(tmp_path / quantization), str(tmp_path / f"run_{quantization}")) == []
    after = Translator.load(tmp_path / "run_float32")
    assert_trees_equal(after.params, before.params)
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    again, first = Run(tmp_path / "run_float32").config, Run(run).config
    assert (again.decode, again.data.source_language) == (first.decode, first.data.source_language)
    lines = ["The dog sleeps.", "A red book.", "I see the old teacher."]
    assert [each.tokens for each in after.translate(lines)] == [each.tokens for each in before.translate(lines)]
    near = Translator.load(tmp_path / "run_int8")
    scores = [[each.log_prob for each in translator.score(lines, lines)] for translator in (before, near)]
    np.testing.assert_allclose(*scores, rtol=0.05)
