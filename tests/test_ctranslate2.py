"""Our parameters under CTranslate2's names, each in its place; where it is installed, the same scores and translations."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import VOCAB, letters, random_parameters, tiny_config, tiny_model

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.ctranslate2 import export, weights_for, write_model
from transformer_jax.models.layers import sinusoids
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Every option of the Transformer that CTranslate2 must be told of, at least once.
ARCHITECTURES = {
    "the paper's": dict(),
    "pre-norm, rotary, SwiGLU": dict(norm="pre", positions="rotary", activation="swiglu"),
    "learned, untied, bias, GELU": dict(
        positions="learned", max_positions=64, tied_embeddings="none", output_bias=True, decoder_layers=1, activation="gelu"
    ),
    "concatenated, target tied, SiLU, narrow keys": dict(
        positions="sinusoidal_concatenated", tied_embeddings="target", activation="silu", key_width=4, value_width=12
    ),
    "Marian's, from position 2": dict(
        positions="sinusoidal_marian",
        first_position=2,
        activation="silu",
        output_bias=True,
        attention_bias=True,
        norm_epsilon=0.1,
    ),
    "biases, narrow keys, embeddings not scaled": dict(attention_bias=True, key_width=4, value_width=12, scale_embedding=False),
    "from zeros, exact GELU": dict(zero_start=True, activation="gelu_exact", tied_embeddings="none"),
    "Marian's GELU": dict(activation="gelu_sigmoid"),
    "rotary, wide keys, narrow values": dict(positions="rotary", key_width=16, value_width=4),
}
every_architecture = pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path_factory.mktemp("tokenizer"))


def numbered(config):
    """Parameters of which no two numbers are the same, and none is 0."""
    leaves, structure = jax.tree.flatten(abstract_parameters(build_model(config, VOCAB)))
    ends = np.cumsum([leaf.size for leaf in leaves])
    arrays = [np.arange(end - leaf.size, end, dtype=np.float32) + 1 for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(structure, [x.reshape(leaf.shape) for x, leaf in zip(arrays, leaves, strict=True)]), ends[-1]


@every_architecture
def test_every_number_is_written_once_for_each_of_its_uses(options):
    config = tiny_model(num_layers=2, **options)
    params, count = numbered(config)
    weights = weights_for(params, config, VOCAB, positions=7)
    if config.positions.startswith("sinusoidal"):
        expected = sinusoids(config.first_position + np.arange(7), 16, config.positions)
        for side in ("encoder", "decoder"):
            np.testing.assert_array_equal(weights.pop(f"{side}/position_encodings/encodings"), expected)
    # What is tied is written once for each use: a table of V rows of D numbers.
    again = {"all": 2, "target": 1, "none": 0}[config.tied_embeddings]
    table = np.tile(params["target_embedding"]["table"].reshape(-1), again)
    written = np.concatenate([weight.reshape(-1) for weight in weights.values()])
    np.testing.assert_array_equal(np.sort(written[written > 0]), np.sort([*np.arange(1, count + 1), *table]))
    assert (written == 0).any() == (config.value_width != config.key_width)  # filled up


def test_queries_keys_and_values_stand_one_after_the_other():
    config = tiny_model(key_width=2, value_width=3)
    params, _ = numbered(config)
    found = weights_for(params, config, VOCAB, positions=7)["encoder/layer_0/self_attention/linear_0/weight"]
    kernels = params["encoder_0"]["attention"]
    query_key, value = kernels["query_key"]["kernel"], kernels["value"]["kernel"]  # [D, 2, H, 2], [D, H, 3]
    parts = found.reshape(3, 2, 3, 16)  # query, key, value; heads; the width with room for both; D
    np.testing.assert_array_equal(parts[:2, :, :2], query_key.transpose(1, 2, 3, 0))
    np.testing.assert_array_equal(parts[:2, :, 2], 0)
    np.testing.assert_array_equal(parts[2], value.transpose(1, 2, 0))


def test_parameters_of_another_model_are_all_named():
    config = tiny_model()
    params = random_parameters(build_model(config, VOCAB))
    params["target_embedding"]["table"] = params["target_embedding"]["table"][1:]
    params["encoder_0"]["feed_forward"]["middle"] = params["encoder_0"]["feed_forward"].pop("inner")
    with pytest.raises(UserError) as error:
        weights_for(params, config, VOCAB, positions=7)
    assert "target_embedding/table has shape (22, 16) instead of (23, 16)" in str(error.value)
    for name in ("kernel", "bias"):
        assert f"encoder_0/feed_forward/inner/{name} is missing" in str(error.value)
        assert f"encoder_0/feed_forward/middle/{name} is not the model's" in str(error.value)


def make_run(folder, **model):
    config = Config()
    config.model = tiny_model(**model)
    run = Run.open_or_create(folder, config)
    Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), run.tokenizer_folder)
    return str(folder)


def test_what_cannot_be_written_is_told(tmp_path, monkeypatch):
    lstm = make_run(tmp_path / "lstm", family="lstm")
    with pytest.raises(UserError, match=r"model\.family=lstm: CTranslate2 has no such model"):
        export(lstm, str(tmp_path / "out"))
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="--quantization=int4 should be one of float32, float16, int8"):
        export(run, str(tmp_path / "out"), quantization="int4")
    with pytest.raises(UserError, match="run: is not an empty folder"):
        export(run, run)
    with pytest.raises(UserError, match="gs://bucket/model: should be a folder on a local disk"):
        export(run, "gs://bucket/model")
    monkeypatch.setitem(sys.modules, "ctranslate2", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"not installed; \S+ -m pip install 'transformer_jax\[ctranslate2\]'"):
        export(run, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_one_line(tmp_path):
    command = [sys.executable, "-m", "transformer_jax.interop.ctranslate2", str(tmp_path / "none"), str(tmp_path / "out")]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert found.stderr == f"error: {tmp_path}/none: no such run folder; train.py --workdir={tmp_path}/none makes one\n"


@pytest.fixture(scope="module")
def ctranslate2():
    return pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed; make test-interop installs it")


def make_translator(tokenizer, **options):
    config = Config()
    config.model = tiny_model(num_layers=2, **options)
    model = build_model(config.model, tokenizer.vocab_size)

    def sharpen(path, leaf):
        # Logits far apart and attention far from uniform, so that nothing that is wrong stays small.
        return leaf * (8 if path[-1].key == "table" else 2 if leaf.ndim > 2 else 1)

    params = jax.tree_util.tree_map_with_path(sharpen, random_parameters(model))
    return Translator(model, params, tokenizer, config), config


def pieces(tokenizer, lines):
    return [tokenizer.source_pieces(row) for row in tokenizer.encode_source(lines, add_eos=False)]


@pytest.mark.interop
@every_architecture
def test_given_translations_have_our_log_probabilities(options, ctranslate2, tokenizer, tmp_path):
    translator, config = make_translator(tokenizer, **options)
    write_model(translator.params, tokenizer, config, tmp_path / "model")
    sources, targets = [*letters(30, 9, seed=5), "½ 你"], letters(31, 9, seed=6)
    ours = translator.score(sources, targets)
    theirs = ctranslate2.Translator(str(tmp_path / "model"), compute_type="float32").score_batch(
        pieces(tokenizer, sources), pieces(tokenizer, targets)
    )
    for expected, found in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found.log_probs, expected.token_log_probs, atol=3e-4)
    assert np.std([each.log_prob for each in ours]) > 5


@pytest.mark.interop
@pytest.mark.parametrize("beam", [1, 4])
def test_search_without_length_penalty_finds_the_same(beam, ctranslate2, tokenizer, tmp_path):
    translator, config = make_translator(tokenizer, norm="pre", positions="learned")
    eos, places = translator.params["target_embedding"]["table"][tokenizer.eos_id], translator.params["target_positions"]
    places += 4 * np.arange(len(places))[:, None] * eos  # EOS grows likelier from place to place: translations end
    write_model(translator.params, tokenizer, config, tmp_path / "model")
    lines = letters(25, 9, seed=5)
    ours = translator.translate(lines, beam=beam, length_penalty=0, max_length_extra=100)
    theirs = ctranslate2.Translator(str(tmp_path / "model"), compute_type="float32").translate_batch(
        pieces(tokenizer, lines), beam_size=beam, length_penalty=0, min_decoding_length=0
    )
    assert [each.hypotheses[0] for each in theirs] == [tokenizer.pieces(each.tokens[:-1]) for each in ours]
    assert len({len(each.tokens) for each in ours}) > 3
    assert len({each.tokens for each in ours}) > 10


@pytest.mark.interop
def test_a_run_is_written_whole_in_every_quantization(ctranslate2, tmp_path):
    config = tiny_config(tmp_path)
    train(config, str(tmp_path / "run"))
    lines = letters(20, 6, seed=2)
    translator = Translator.load(tmp_path / "run", "latest")
    expected = [each.log_prob for each in translator.score(lines, lines)]
    sizes = []
    for quantization, tolerance in (("float32", 1e-4), ("float16", 1e-2), ("int8", 0.1)):
        output = tmp_path / quantization
        name = export(tmp_path / "run", output, "latest", quantization)
        assert name == "step 6"
        assert Tokenizer.load(output / "tokenizer").fingerprint == translator.tokenizer.fingerprint
        split = pieces(translator.tokenizer, lines)
        found = ctranslate2.Translator(str(output)).score_batch(split, split)
        np.testing.assert_allclose([sum(each.log_probs) for each in found], expected, rtol=tolerance)
        sizes.append((output / "model.bin").stat().st_size)
    assert sizes[0] > max(sizes[1:])
    assert not list(tmp_path.glob("*.partial"))
