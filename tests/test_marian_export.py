"""Our models in Marian's own files, and back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from ctranslate2_files import variables_of, write_model
from helpers import assert_trees_equal, letters, random_parameters, tiny_model
from test_ctranslate2_import import with_own_specials

from transformer_jax.cli.subcommands import run as run_command
from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.importing import import_run
from transformer_jax.interop.marian import export_marian
from transformer_jax.interop.marian_npz import read_marian
from transformer_jax.interop.marian_writer import write_marian
from transformer_jax.interop.parameters import completed
from transformer_jax.models.seq2seq import build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation")
OPUS = Path(__file__).parent / "marian" / "opus"
MARIANS = dict(positions="sinusoidal_marian", zero_start=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def made(tokenizer, **options):
    """The config of such a model, and its parameters."""
    config = Config()
    config.model = tiny_model(**MARIANS | options)
    return config, random_parameters(build_model(config.model, tokenizer.vocab_size))


def test_a_model_of_marian_comes_back_as_it_was(tmp_path):
    import_run(str(OPUS), str(tmp_path / "run"))
    name, notes = export_marian(str(tmp_path / "run"), str(tmp_path / "out"))
    assert (name, notes) == ("step 0", [])
    with np.load(OPUS / "opus.npz") as before, np.load(tmp_path / "out" / "model.npz") as after:
        assert before.keys() == after.keys()
        arrays = [{name: file[name] for name in file if "special" not in name} for file in (before, after)]
        assert_trees_equal(*arrays)
        options = [yaml.safe_load(file["special:model.yml"].tobytes().rstrip(b"\0")) for file in (before, after)]
    assert options[0].items() <= options[1].items()
    for name in ("source.spm", "target.spm"):
        assert (tmp_path / "out" / name).read_bytes() == (OPUS / name).read_bytes()
    import_run(str(tmp_path / "out"), str(tmp_path / "again"))
    before, after = (Translator.load(tmp_path / name) for name in ("run", "again"))
    assert_trees_equal(after.params, before.params)
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert Run(tmp_path / "again").config == Run(tmp_path / "run").config


@pytest.mark.parametrize(
    ("norm", "tied", "activation", "autoregression"),
    [
        *zip(("post", "pre") * 3, ("all", "target", "none") * 2, ("relu", "silu") * 3, ["attention"] * 6, strict=True),
        ("post", "all", "gelu_sigmoid", "attention"),
        ("post", "all", "relu", "ssru"),
        ("pre", "none", "relu", "ssru"),
    ],
)
def test_every_model_that_marian_has_comes_back(norm, tied, activation, autoregression, tokenizer, tmp_path):
    """With the biases that Marian has, and a row of zeros for the start, which it has not."""
    options = dict(norm=norm, tied_embeddings=tied, activation=activation, output_bias=norm == "pre")
    options["autoregression"] = autoregression
    config, params = made(tokenizer, num_layers=2, decoder_layers=1, **options)
    write_marian(params, tokenizer, config, tmp_path / "out")
    foreign = read_marian(tmp_path / "out")
    expected, model = completed(params, config.model, tokenizer.vocab_size)
    for name in ("source_embedding", "target_embedding", "output_embedding"):
        if name in expected:
            expected[name]["table"] = np.pad(expected[name]["table"], ((0, 1), (0, 0)))
    expected["bias"] = np.pad(expected["bias"], (0, 1))
    assert_trees_equal(foreign.parameters(), expected)
    assert foreign.model == dataclasses.replace(model, zero_start=False, dropout=0.1, compute_dtype="auto")


@pytest.mark.parametrize(("norm", "in_name"), [("post", "_ffn_ln_scale"), ("pre", "_ln_scale_pre")])
def test_an_ssru_has_the_names_and_options_that_marian_gives_it(norm, in_name, tokenizer, tmp_path):
    """Of `SSRU` in Marian's rnn/cells.h and `DecoderLayerRNN` in models/transformer.h."""
    config, params = made(tokenizer, norm=norm, autoregression="ssru")
    write_marian(params, tokenizer, config, tmp_path / "out")
    with np.load(tmp_path / "out" / "model.npz") as file:
        arrays = dict(file)
    layer, shape = params["decoder_0"]["recurrence"], (config.model.width,) * 2
    assert arrays["decoder_l1_rnn_W"].shape == arrays["decoder_l1_rnn_Wf"].shape == shape
    assert_trees_equal(arrays["decoder_l1_rnn_W"], layer["input"]["kernel"][:, 0])
    assert_trees_equal(arrays["decoder_l1_rnn_Wf"], layer["input"]["kernel"][:, 1])
    assert_trees_equal(arrays["decoder_l1_rnn_bf"], layer["forget_bias"][None])
    assert f"decoder_l1_rnn{in_name}" in arrays and not any("decoder_l1_self" in name for name in arrays)
    options = yaml.safe_load(arrays["special:model.yml"].tobytes().rstrip(b"\0"))
    assert (options["transformer-decoder-autoreg"], options["dec-cell"]) == ("rnn", "ssru")


@pytest.mark.slow
def test_it_translates_and_scores_the_same(tokenizer, tmp_path):
    config, params = made(tokenizer, norm="pre", output_bias=True)
    params["target_embedding"]["table"] *= 6  # logits far apart
    write_marian(params, tokenizer, config, tmp_path / "out")
    import_run(str(tmp_path / "out"), str(tmp_path / "run"))
    before, after = (
        Translator(build_model(config.model, tokenizer.vocab_size), params, tokenizer, config),
        Translator.load(tmp_path / "run"),
    )
    lines, search = letters(12, 6, seed=4), dict(beam=3, length_penalty=1.0, length_normalization="power", min_length_extra=4)
    after.params["bias"] = (
        after.params["bias"].at[-1].set(-1e9)
    )  # the start's logit, which Marian has not, out of the probabilities
    found = [[each.tokens for each in translator.translate(lines, **search)] for translator in (before, after)]
    assert found[0] == found[1] and len({*found[0]}) > 3
    scores = [[each.log_prob for each in translator.score(lines, lines)] for translator in (before, after)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_the_files_say_what_the_run_does(tokenizer, tmp_path):
    config, params = made(tokenizer, norm_epsilon=1e-5)
    config.decode.beam, config.decode.word_reward = 7, 0.5
    notes = write_marian(params, tokenizer, config, tmp_path / "out")
    decoder = yaml.safe_load((tmp_path / "out" / "decoder.yml").read_text())
    assert decoder["beam-size"] == 7 and decoder["normalize"] == 0.6 and decoder["vocabs"] == ["vocab.yml", "vocab.yml"]
    assert [note.partition(":")[0] for note in notes] == [
        "model.norm_epsilon=1e-05",
        "decode.length_normalization=gnmt",
        "decode.word_reward=0.5 not taken over",
        "tokenizer.normalize",
    ]
    config.decode.length_normalization = "none"
    notes = write_marian(params, tokenizer, config, tmp_path / "plain")
    assert yaml.safe_load((tmp_path / "plain" / "decoder.yml").read_text())["word-penalty"] == -0.5
    assert [note.partition(":")[0] for note in notes] == ["model.norm_epsilon=1e-05", "tokenizer.normalize"]
    rows = yaml.safe_load((tmp_path / "out" / "vocab.yml").read_text(encoding="utf-8"))
    assert rows == {piece: row for row, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}


def test_a_vocabulary_of_the_sources_own_goes_out_and_comes_back(tokenizer, tmp_path):
    target = with_own_specials(tokenizer.pieces(range(tokenizer.vocab_size)))
    source = [*target[:4], *target[6:]]
    model = tiny_model(**MARIANS, tied_embeddings="none", source_vocab_size=len(source))
    params = random_parameters(build_model(model, len(target)))
    variables = variables_of(model, params, len(target))
    folder = write_model(tmp_path / "ct2", variables, target, tokenizer.models()[0], source=source, add_source_eos=True)
    import_run(str(folder), str(tmp_path / "run"))
    export_marian(str(tmp_path / "run"), str(tmp_path / "out"))
    import_run(str(tmp_path / "out"), str(tmp_path / "again"))
    before, after = (Translator.load(tmp_path / name) for name in ("run", "again"))
    for name in ("source_embedding", "target_embedding"):
        expected = before.params[name]["table"]
        np.testing.assert_array_equal(after.params[name]["table"][: len(expected)], expected)
    lines = ["a b c", "h </s>", ""]
    for one, other in zip(before.tokenizer.encode_source(lines), after.tokenizer.encode_source(lines), strict=True):
        assert one.tolist() == other.tolist()
    assert after.tokenizer.source_vocab_size == len(source)


def test_what_marian_has_not_is_named(tokenizer, tmp_path):
    config, params = made(tokenizer)
    for changes, expected in (
        (dict(family="lstm"), "Marian has no model.family=lstm"),
        (
            dict(positions="sinusoidal", activation="swiglu", key_width=4),
            "positions=sinusoidal, no model.activation=swiglu, no model.key",
        ),
        (dict(first_position=1, scale_embedding=False), "model.first_position=1, no model.scale_embedding=False"),
        (dict(zero_start=False), "embedding of the decoder's start, and that of <s> is not zeros: Marian begins with zeros"),
    ):
        wrong = Config()
        wrong.model = tiny_model(**({} if "family" in changes else MARIANS) | changes)
        with pytest.raises(UserError) as error:
            write_marian(params, tokenizer, wrong, tmp_path / "out")
        assert expected in str(error.value) and "\n" not in str(error.value)
    ids = dict(pad_id=0, eos_id=3, unknown_id=2, bos_id=1, decoder_start_id=1)
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    other = Tokenizer.of_models(*tokenizer.models(), pieces, ids, tmp_path / "other", source_marks=(False, False))
    with pytest.raises(UserError, match=r"no </s> called <s>, no sources with BOS before them or without EOS at the end$"):
        write_marian(params, other, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformer_jax.cli.program.set_up", lambda *_, **__: None)
    import_run(str(OPUS), str(tmp_path / "run"))
    run_command(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format=marian"])
    assert capsys.readouterr().out == f"{tmp_path}/out: step 0 of {tmp_path}/run\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.npz",
        "vocab.yml",
        "source.spm",
        "target.spm",
        "decoder.yml",
    }
