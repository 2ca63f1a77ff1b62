"""Marian's models as ours, with the logits and tokens that make_marian_fixtures.py recorded of Hugging Face, and back."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
import yaml
from helpers import assert_trees_equal, random_parameters, tiny_model, write_tsv
from make_marian_fixtures import ENGLISH, GERMAN, sentences

from transformer_jax.cli.config_files import load_config
from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data.batching import Batch
from transformer_jax.errors import UserError
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.foreign_model import read_json
from transformer_jax.interop.hugging_face_writer import unsupported
from transformer_jax.interop.marian import completed, export_run, import_run, write_model
from transformer_jax.interop.marian_vocabulary import parse_vocabulary
from transformer_jax.interop.marian_weights import HUGGING_FACE, MARIAN, from_parameters, places, to_parameters
from transformer_jax.interop.safetensors import read_safetensors, write_safetensors
from transformer_jax.models.seq2seq import build_model
from transformer_jax.recipes import first_lines, recipe
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.tokenizer import Tokenizer
from transformer_jax.training.init_from import first_parameters, first_tokenizer
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")
FIXTURES = Path(__file__).parent / "marian"
KINDS = ["hugging_face", "opus"]
VOCAB = 23


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    notes = {kind: import_run(str(FIXTURES / kind), str(folder / kind)) for kind in KINDS}
    return folder, notes


@pytest.fixture(scope="module")
def reference():
    return json.loads((FIXTURES / "reference.json").read_text(encoding="utf-8"))


def logits_of(translator: Translator, source: np.ndarray, target_input: np.ndarray) -> np.ndarray:
    """Where a source ends in padding, the target is all there."""
    pad = translator.tokenizer.pad_id
    position = [np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape) for ids in (source, target_input)]
    segment = (source != pad).astype(np.int32)
    target = target_input, target_input, np.ones_like(target_input), position[1]
    batch = Batch(source, segment, position[0], *target)
    return np.asarray(translator.model.apply({"params": translator.params}, batch, train=False))


def test_logits_are_those_of_hugging_face(runs):
    translator = Translator.load(runs[0] / "hugging_face")
    with np.load(FIXTURES / "reference.npz") as reference:
        found = logits_of(translator, reference["source"], reference["target"])
        np.testing.assert_allclose(found, reference["logits"], atol=1e-4)
        assert reference["logits"].std() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_hugging_face(kind, runs, reference):
    tokenizer = Run(runs[0] / kind).tokenizer()
    for encode, expected in ((tokenizer.encode_source, "source"), (tokenizer.encode_target, "target")):
        assert [ids.tolist() for ids in encode(reference["lines"])] == reference[expected]
        assert [ids.tolist() for ids in encode(reference["lines"], add_eos=False)] == [ids[:-1] for ids in reference[expected]]
    assert tokenizer.decode(reference["rows"]) == reference["texts"]
    assert tokenizer.pieces([0, 1, tokenizer.pad_id]) == ["</s>", "<unk>", "<pad>"]
    assert tokenizer.decoder_start_id == tokenizer.pad_id == tokenizer.vocab_size - 1


def test_the_files_of_such_a_tokenizer(runs, tmp_path):
    tokenizer = Run(runs[0] / "hugging_face").tokenizer()
    tokenizer.copy_to(tmp_path)
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match=r"tokenizer\.samples: only for tokenizers as they are trained here"):
        tokenizer.sample_source(["the dog"], 0.1, 0)
    file = tmp_path / "vocabulary.json"
    pieces = json.loads(file.read_text(encoding="utf-8"))
    pieces[5] = None  # a row without a piece is never read, and nothing where it is written
    file.write_text(json.dumps(pieces))
    changed = Tokenizer.load(tmp_path)
    assert changed.fingerprint != tokenizer.fingerprint
    assert changed.pieces([5]) == ["<row 5>"] and changed.decode([[5]]) == [""] and 5 not in changed.vocabulary().values()
    for damaged in ("", "{}", "[1]", '["a", "a"]', "[" * 100_000):
        file.write_text(damaged)
        with pytest.raises(UserError, match=r"vocabulary\.json: damaged"):
            Tokenizer.load(tmp_path)
    file.write_text('["</s>", "<unk>"]')
    with pytest.raises(UserError, match=r"tokenizer\.json: pad_id should be below 2, the pieces of vocabulary\.json"):
        Tokenizer.load(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"vocabulary\.json: no such file"):
        Tokenizer.load(tmp_path)


def test_text_never_becomes_a_special_id(runs):
    """There Hugging Face differs: it takes `</s>` in a text for the end."""
    tokenizer = Run(runs[0] / "hugging_face").tokenizer()
    for ids in tokenizer.encode_source(["a </s> b", "<pad>", "<pad><<", ">><<", "</s>"]):
        assert {tokenizer.eos_id, tokenizer.pad_id}.isdisjoint(ids[:-1].tolist())


def test_marians_own_file_has_the_same_parameters_and_its_own_sinusoids_and_epsilon(runs):
    folder, notes = runs
    theirs, marian = (Translator.load(folder / kind) for kind in KINDS)
    assert_trees_equal(marian.params, theirs.params)
    configs = [Run(folder / kind).config for kind in KINDS]
    assert configs[0].model == dataclasses.replace(
        configs[1].model, positions="sinusoidal_concatenated", norm_epsilon=1e-5, attention_dropout=0.0
    )
    assert configs[1].model.positions == "sinusoidal_marian" and configs[1].model.norm_epsilon == 1e-6
    decode = configs[1].decode
    assert (decode.beam, decode.length_penalty, decode.length_normalization) == (6, 1.0, "power")
    assert marian.tokenizer.vocabulary() == theirs.tokenizer.vocabulary()
    assert notes["opus"] == []


@pytest.mark.parametrize(
    ("written", "reward", "note"),
    [
        ("word-penalty: -0.25\nnormalize: 0", 0.25, ""),
        ("word-penalty: -0.25\nnormalize: 1", 0.0, "word-penalty: -0.25"),
        ("word-penalty: 0.25", 0.0, "word-penalty: 0.25"),
        ("n-best: true", 0.0, "n-best: True"),
    ],
)
def test_a_word_penalty_is_a_reward_where_it_means_the_same(marians, tmp_path, written, reward, note):
    (marians / "decoder.yml").write_text(f"models: [opus.npz]\nvocabs: [opus.vocab.yml, opus.vocab.yml]\n{written}\n")
    notes = import_run(str(marians), str(tmp_path / "run"))
    assert Run(tmp_path / "run").config.decode.word_reward == reward
    assert notes == ([f"of decoder.yml not taken over: {note}"] if note else [])


def test_out_again_has_the_same_bits(runs, tmp_path):
    name, notes = export_run(str(runs[0] / "hugging_face"), str(tmp_path / "out"))
    assert (name, notes) == ("step 0", [])
    before, after = FIXTURES / "hugging_face", tmp_path / "out"
    assert_trees_equal(read_safetensors(after / "model.safetensors"), read_safetensors(before / "model.safetensors"))
    for file in ("source.spm", "target.spm"):
        assert (after / file).read_bytes() == (before / file).read_bytes()
    assert read_json(after / "vocab.json", "") == read_json(before / "vocab.json", "")
    options, expected = (read_json(folder / "config.json", "") for folder in (after, before))
    same = options.keys() & expected.keys()
    assert {"d_model", "pad_token_id", "eos_token_id", "decoder_start_token_id", "scale_embedding", "dropout"} <= same
    different = {name for name in same if options[name] != expected[name]}
    assert different == {"max_position_embeddings"}  # the tables are no parameters; ours has more rows
    import_run(str(after), str(tmp_path / "run"))
    assert_trees_equal(Translator.load(tmp_path / "run").params, Translator.load(runs[0] / "hugging_face").params)


def test_positions_of_marians_own_survive_hugging_face(runs, tmp_path):
    _, notes = export_run(str(runs[0] / "opus"), str(tmp_path / "out"))
    assert notes == ["model.norm_epsilon=1e-06: theirs is 1e-05"]
    import_run(str(tmp_path / "out"), str(tmp_path / "run"))
    assert Run(tmp_path / "run").config.model.positions == "sinusoidal_marian"


@pytest.mark.parametrize(
    ("naming", "options"),
    [
        (HUGGING_FACE, {}),
        (MARIAN, dict(output_bias=True, attention_bias=True, norm="pre", decoder_layers=1)),
        (HUGGING_FACE, dict(tied_embeddings="target", output_bias=True)),
        (MARIAN, dict(tied_embeddings="none", attention_bias=True)),
    ],
    ids=str,
)
def test_every_parameter_has_a_place_and_comes_back(naming, options):
    config = tiny_model(num_layers=2, **options)
    params = random_parameters(build_model(config, VOCAB))
    weights = from_parameters(params, config, VOCAB, naming)
    assert weights.keys() == {getattr(place, naming) for place in places(config)}
    assert_trees_equal(to_parameters(weights, config, VOCAB, naming, "here"), params)


def test_a_matrix_stands_as_each_system_multiplies_by_it():
    config = tiny_model(attention_bias=True)
    params = random_parameters(build_model(config, VOCAB))
    x, kernel = np.random.default_rng(0).standard_normal(16), params["encoder_0"]["attention"]["query_key_value"]["kernel"]
    keys = np.einsum("d,dhk->hk", x, kernel[:, 1]).reshape(-1)
    theirs, marian = (from_parameters(params, config, VOCAB, naming) for naming in (HUGGING_FACE, MARIAN))
    np.testing.assert_allclose(theirs["model.encoder.layers.0.self_attn.k_proj.weight"] @ x, keys, rtol=1e-5)
    np.testing.assert_allclose(x @ marian["encoder_l1_self_Wk"], keys, rtol=1e-5)
    assert marian["encoder_l1_self_bk"].shape == (1, 16)


def test_biases_that_were_left_out_are_zeros():
    config = tiny_model()
    params = random_parameters(build_model(config, VOCAB))
    complete, with_biases = completed(params, config, VOCAB)
    assert with_biases == dataclasses.replace(config, attention_bias=True, output_bias=True)
    weights = from_parameters(complete, with_biases, VOCAB, HUGGING_FACE)
    added = weights.keys() - {place.hugging_face for place in places(config)}
    assert len(added) == 3 * 4 + 1 and not any(weights[name].any() for name in added)


def test_all_weights_that_are_wrong_are_named():
    config = tiny_model(attention_bias=True)
    weights = from_parameters(random_parameters(build_model(config, VOCAB)), config, VOCAB, MARIAN)
    weights["Wemb"] = weights["Wemb"][1:]
    weights["encoder_l1_self_Wx"] = weights.pop("encoder_l1_self_Wq")
    weights["decoder_l1_ffn_W1"] = weights["decoder_l1_ffn_W1"].astype(np.int8)
    with pytest.raises(UserError) as error:
        to_parameters(weights, config, VOCAB, MARIAN, "opus.npz")
    for told in (
        "opus.npz: not the weights of the model",
        "Wemb has shape (22, 16) instead of (23, 16)",
        "encoder_l1_self_Wq is missing",
        "encoder_l1_self_Wx is not known",
        "decoder_l1_ffn_W1 is of int8 instead of floating-point numbers",
    ):
        assert told in str(error.value)


def copied(tmp_path: Path, kind: str) -> Path:
    return Path(shutil.copytree(FIXTURES / kind, tmp_path / kind))


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def told(folder: Path, output: Path) -> str:
    with pytest.raises(UserError) as error:
        import_run(str(folder), str(output))
    assert not output.exists() and "\n" not in str(error.value)
    return str(error.value)


def test_all_options_that_we_have_not_are_named(tmp_path):
    folder = copied(tmp_path, "hugging_face")
    changes = dict(activation_function="tanh", normalize_before=True, decoder_attention_heads=4, decoder_vocab_size=9)
    change_json(folder / "config.json", d_model="16", tie_word_embeddings=False, **changes)
    found = told(folder, tmp_path / "run")
    for name in (*changes, "d_model: '16'", "tie_word_embeddings: False", "config.json: no model of ours is like this one"):
        assert name in found or name == "decoder_vocab_size"
    assert "a vocabulary for the source and another for the target" in found


def test_all_of_marians_options_that_we_have_not_are_named(tmp_path):
    folder = copied(tmp_path, "opus")
    with np.load(folder / "opus.npz") as arrays:
        arrays = dict(arrays)
    options = yaml.safe_load(arrays["special:model.yml"].tobytes().rstrip(b"\0"))
    changes = {
        "type": "s2s",
        "transformer-decoder-autoreg": "average-attention",
        "transformer-rnn-projection": True,
        "transformer-ffn-activation": "tanh",
        "transformer-postprocess-emb": "nd",
        "transformer-postprocess": "dhan",
        "tied-embeddings-src": True,
        "tied-embeddings-all": False,
        "transformer-tied-layers": [1, 1],
    }
    text = yaml.safe_dump(options | changes).encode() + b"\0"
    np.savez(folder / "opus.npz", **arrays | {"special:model.yml": np.frombuffer(text, np.int8)})
    found = told(folder, tmp_path / "run")
    assert all(f"{name}:" in found for name in changes if name != "tied-embeddings-all")


@pytest.mark.parametrize(
    ("kind", "file", "content", "expected"),
    [
        ("hugging_face", "config.json", "{", "config.json: damaged, expected JSON"),
        ("hugging_face", "vocab.json", None, "vocab.json: no such file; expected the number of each piece"),
        ("hugging_face", "vocab.json", '{"</s>": 0, "<unk>": 0}', "have the same number, 0"),
        ("hugging_face", "vocab.json", '{"</s>": 0, "a": 1}', "vocab.json: has no <unk>"),
        ("hugging_face", "vocab.json", '{"</s>": 0, "<unk>": 1000}', "'<unk>' has the number 1000; expected one from 0 to"),
        ("hugging_face", "source.spm", None, "source.spm: no such file"),
        ("hugging_face", "source.spm", "junk", "source.spm: damaged, not a SentencePiece model"),
        ("hugging_face", "model.safetensors", "junk", "model.safetensors: not a whole safetensors file"),
        ("hugging_face", "model.safetensors", None, "has neither model.safetensors nor pytorch_model.bin"),
        ("opus", "opus.npz", "junk", "opus.npz: not a whole .npz file"),
        ("opus", "opus.npz", None, "nor a config.json (a MarianMTModel's folder) nor an .npz file"),
        ("opus", "decoder.yml", "models: [a.npz, b.npz]", "decoder.yml: names 2 models"),
        ("opus", "decoder.yml", "]", "decoder.yml: damaged, expected YAML"),
        ("opus", "opus.vocab.yml", "a b", "opus.vocab.yml: line 1: 'a b' should be a piece, a colon, and its number"),
        ("opus", "opus.vocab.yml", "a: 0\n<pad>: 1\n", "opus.vocab.yml: has no </s> and no <unk>"),
    ],
)
def test_what_is_missing_or_damaged_is_told(kind, file, content, expected, tmp_path):
    folder = copied(tmp_path, kind)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert expected in told(folder, tmp_path / "run")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pickle_needs_torch(tmp_path, monkeypatch):
    folder = copied(tmp_path, "hugging_face")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    hint = f"pytorch_model.bin: only torch reads it; {sys.executable} -m pip install torch"
    assert hint in told(folder, tmp_path / "run")


def test_what_hugging_face_has_not_is_named(tmp_path):
    config = Config()
    config.model = tiny_model(norm="pre", positions="rotary", activation="swiglu", key_width=4)
    tokenizer = Tokenizer.train(["a b c"] * 9, TokenizerConfig(vocab_size=264), tmp_path / "tokenizer")
    with pytest.raises(UserError, match=r"PegasusFor.* has no .*rotary, no .*swiglu, no .*key_width=4"):
        write_model({}, tokenizer, config, tmp_path / "out")
    config.model = tiny_model(norm="pre", tied_embeddings="none")
    remedies = r"; write it for CTranslate2 .*--format=ctranslate2\), or train a .*--config\.model\.tied_embeddings=all$"
    with pytest.raises(UserError, match=f"has no model.tied_embeddings=none{remedies}"):
        write_model({}, tokenizer, config, tmp_path / "out")
    config.model = tiny_model(family="lstm")
    with pytest.raises(UserError, match=r"has no model\.family=lstm; train a model with --config\.model\.family=transformer$"):
        write_model({}, tokenizer, config, tmp_path / "out")


def test_a_pre_norm_model_is_written_for_pegasus_and_read_again(tmp_path):
    config = Config()
    config.model = tiny_model(norm="pre", norm_epsilon=1e-5, first_position=2)
    tokenizer = Tokenizer.train(["a b c"] * 9, TokenizerConfig(vocab_size=264), tmp_path / "tokenizer")
    params = random_parameters(build_model(config.model, tokenizer.vocab_size))
    notes = write_model(params, tokenizer, config, tmp_path / "out")
    assert notes[0] == "model.norm=pre: load it with PegasusForConditionalGeneration and MarianTokenizer"
    options = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert (options["model_type"], options["architectures"]) == ("pegasus", ["PegasusForConditionalGeneration"])
    import_run(str(tmp_path / "out"), str(tmp_path / "run"), ("fr", "it"))
    expected, model = completed(params, config.model, tokenizer.vocab_size)
    again = Run(tmp_path / "run").config.model
    assert (again.norm, again.positions, again.norm_epsilon) == ("pre", "sinusoidal", model.norm_epsilon)
    assert again.first_position == 2
    assert_trees_equal(Translator.load(tmp_path / "run").params, expected)


def test_every_small_recipe_of_a_transformer_without_rotary_positions_has_a_class(tmp_path):
    tokenizer = Tokenizer.train(["a b c"] * 9, TokenizerConfig(vocab_size=264), tmp_path)
    models = {name: recipe(name).model for name in set(first_lines()) - {"own_text", "transformer_table3"}}
    models |= {f"own_text {pairs}": recipe("own_text", pairs).model for pairs in (20, 10**4, 10**6)}
    transformers = {name: model for name, model in models.items() if model.family == "transformer"}
    refused = {name: unsupported(model, tokenizer) for name, model in transformers.items() if unsupported(model, tokenizer)}
    assert len(transformers) > 9 and refused == {"multi30k": ["model.positions=rotary"]}


def test_a_run_of_our_own_is_written_and_read(tmp_path):
    """Also one tokenizer for both sides, which begins with BOS, and falls back to bytes."""
    config = Config()
    config.model = tiny_model(positions="sinusoidal", activation="gelu", tied_embeddings="target", norm_epsilon=1e-5)
    own = Tokenizer.train(["a b c"] * 9, TokenizerConfig(vocab_size=264), tmp_path / "tokenizer")
    params = random_parameters(build_model(config.model, own.vocab_size))
    config.decode.capitals = "restore"
    normalised, capitals = write_model(params, own, config, tmp_path / "out")
    assert normalised.startswith("tokenizer.normalize: theirs takes text as it is")
    assert capitals == "decode.capitals=restore: theirs takes LINES IN CAPITALS as they are"
    import_run(str(tmp_path / "out"), str(tmp_path / "run"), ("fr", "it"))
    translator, config_again = Translator.load(tmp_path / "run"), Run(tmp_path / "run").config
    assert_trees_equal(translator.params, completed(params, config.model, own.vocab_size)[0])
    expected = dataclasses.replace(config.model, attention_bias=True, output_bias=True, decoder_layers=1, compute_dtype="auto")
    assert config_again.model == expected
    assert (config_again.data.source_language, config_again.data.target_language) == ("fr", "it")
    lines = ["a c", "½ 你 </s>", ""]
    assert [ids.tolist() for ids in translator.tokenizer.encode_source(lines)] == [
        ids.tolist() for ids in own.encode_source(lines)
    ]
    rows = own.encode_target(lines)
    assert translator.tokenizer.decode(rows) == own.decode(rows)
    assert [translator.tokenizer.words(row).tolist() for row in rows] == [own.words(row).tolist() for row in rows]


def test_the_commands(tmp_path):
    def ask(*arguments: str):
        command = [sys.executable, "-m", "transformer_jax.interop.marian", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)

    found = ask(str(FIXTURES / "opus"), str(tmp_path / "run"))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith(f"{tmp_path}/run: 8,309 parameters of {FIXTURES}/opus\n")
    found = ask(str(tmp_path / "none"), str(tmp_path / "out"))
    assert found.returncode == 2
    assert (
        found.stderr
        == f"error: {tmp_path}/none: no such folder; expected one with a Marian model (Hugging Face's or OPUS-MT's) or a "
        "CTranslate2 model, or an .argosmodel file\n"
    )


def test_safetensors_of_every_type_and_of_none(tmp_path):
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.float32)}
    write_safetensors(tmp_path / "x", arrays)
    assert_trees_equal(read_safetensors(tmp_path / "x"), arrays)
    text = b'{"half": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    half = jnp.array([1.5, -2], jnp.bfloat16)
    content = len(text).to_bytes(8, "little") + text + np.asarray(half).tobytes()
    (tmp_path / "x").write_bytes(content)
    np.testing.assert_array_equal(read_safetensors(tmp_path / "x")["half"].astype(np.float32), [1.5, -2])
    for damaged in (content[:-1], content.replace(b"BF16", b"F999"), content[:20], content.replace(b"[2]", b"[3]")):
        (tmp_path / "x").write_bytes(damaged)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read_safetensors(tmp_path / "x")


def test_vocabularies_of_every_spelling():
    path = Path("vocab.yml")
    assert parse_vocabulary(b'{"a": 0, "no": 1}', path) == {"a": 0, "no": 1}
    text = "</s>: 0\nno: 1\n~: 2\n\"a: \\\"b\\\"\": 3\n'it''s': 4\n? long\n: 5\n::: 6\r\n"
    text += '"\\x85": 7\n\u2028: 8\n\u2581#: 9\n12: 10\n": 11\n'
    pieces = ["</s>", "no", "~", 'a: "b"', "it's", "long", "::", "\x85"]
    found = parse_vocabulary(text.encode(), path)
    assert found == dict(zip([*pieces, "\u2028", "\u2581#", "12", '"'], range(12), strict=True))


def test_a_new_run_begins_with_the_parameters_and_tokenizer_of_another(runs):
    base = runs[0] / "hugging_face"
    config = load_config(str(base / "config.json"), [f"train.init_from={base}", "model.dropout=0.3"])
    tokenizer = first_tokenizer(config)
    expected = Translator.load(base)
    assert tokenizer.fingerprint == expected.tokenizer.fingerprint
    assert_trees_equal(first_parameters(config, expected.model, tokenizer), expected.params)
    config.model.heads, config.model.scale_embedding = 4, False
    config.tokenizer.algorithm, config.tokenizer.alpha, config.tokenizer.samples = "unigram", 0.5, 3
    told = r"model\.scale_embedding=False should be True, model\.heads=4 should be 2, tokenizer\.algorithm='unigram' should be "
    told += r"'bpe', as in train\.init_from=.*hugging_face; --config=.*hugging_face/config\.json has it so, or give "
    told += r"--config\.model\.scale_embedding=True --config\.model\.heads=2 --config\.tokenizer\.algorithm=bpe$"
    with pytest.raises(UserError, match=told):
        first_tokenizer(config)


def test_a_new_run_may_have_other_positions_unless_one_has_parameters_of_them(tmp_path):
    def begin(positions, other, **changes):
        run = tmp_path / positions
        base, own = Config(), Config()
        base.model.positions, own.model.positions = positions, other
        Run.open_or_create(run, base)
        for key, value in changes.items():
            setattr(own.model, key, value)
        own.train.init_from = f"{run}:latest"
        first_tokenizer(own)

    for positions, other in (("sinusoidal", "rotary"), ("rotary", "sinusoidal_marian")):
        with pytest.raises(UserError, match="no such file"):  # there is no tokenizer in this folder
            begin(positions, other, first_position=2 if other != "rotary" else 0)
    for positions, other in (("learned", "sinusoidal"), ("sinusoidal_concatenated", "learned")):
        with pytest.raises(UserError, match=f"model.positions='{other}' should be '{positions}', as in train.init_from"):
            begin(positions, other)


def test_a_new_run_takes_over_the_tokenizers_settings_or_is_refused(tmp_path):
    """Else its config.json would say what is not so."""
    for field in dataclasses.fields(TokenizerConfig):
        other, own = Config(), Config()
        Run.open_or_create(tmp_path / field.name, other)
        value = getattr(own.tokenizer, field.name)
        changed = "unigram" if value == "bpe" else not value if isinstance(value, bool) else value / 2 if value else 1
        setattr(own.tokenizer, field.name, type(value)(changed))
        own.train.init_from = f"{tmp_path / field.name}:latest"
        if field.name in ("samples", "alpha", "vocab_may_shrink"):
            with pytest.raises(UserError, match="no such file"):  # there is no tokenizer in this folder
                first_tokenizer(own)
            continue
        with pytest.raises(UserError, match=rf"tokenizer\.{field.name}=.* --config=.*{field.name}/config\.json has it so"):
            first_tokenizer(own)


# Hugging Face's further files


@pytest.fixture
def theirs(tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / "hugging_face", tmp_path / "theirs"))


def rewrite(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def test_the_search_follows_generation_config(theirs, tmp_path):
    """It wins over config.json, and what has no field here is told."""
    rewrite(theirs / "config.json", decoder_start_token_id=5, num_beams=3)
    rewrite(
        theirs / "generation_config.json",
        decoder_start_token_id=7,
        pad_token_id=76,
        num_beams=2,
        no_repeat_ngram_size=3,
        max_length=99,
        bad_words_ids=[[76], [1], [7], [4, 5]],
        repetition_penalty=1.2,
        early_stopping=False,
    )
    notes = import_run(str(theirs), str(tmp_path / "run"))
    run = Run(tmp_path / "run")
    tokenizer = run.tokenizer()
    assert (tokenizer.decoder_start_id, tokenizer.pad_id) == (7, 76)
    assert (run.config.decode.beam, run.config.decode.no_repeat_ngram) == (2, 3)
    assert notes == ["of their search not taken over: bad_words_ids: [[4, 5]], max_length: 99, repetition_penalty: 1.2"]
    (theirs / "generation_config.json").unlink()
    import_run(str(theirs), str(tmp_path / "without"))
    assert Run(tmp_path / "without").tokenizer().decoder_start_id == 5 and Run(tmp_path / "without").config.decode.beam == 3
    for wrong, told in (
        ({"decoder_start_token_id": 77}, "should be rows"),
        ({"eos_token_id": 3}, "eos_token_id is 3, but </s>"),
    ):
        (theirs / "generation_config.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=f"generation_config.json: .*{told}"):
            import_run(str(theirs), str(tmp_path / "wrong"))


def with_more_rows(folder: Path, count: int) -> None:
    arrays = read_safetensors(folder / "model.safetensors")
    random = np.random.default_rng(0)
    for name, axis in (("model.shared.weight", 0), ("final_logits_bias", 1)):
        shape = list(arrays[name].shape)
        shape[axis] = count
        arrays[name] = np.concatenate([arrays[name], random.standard_normal(shape).astype(np.float32)], axis=axis)
    write_safetensors(folder / "model.safetensors", arrays)
    rewrite(folder / "config.json", vocab_size=77 + count, decoder_vocab_size=77 + count)


@pytest.mark.parametrize("newer", [False, True])
def test_added_tokens_are_one_piece_wherever_a_text_has_them(newer, theirs, tmp_path):
    """The ids and texts are those that MarianTokenizer of transformers 5.24 gives."""
    with_more_rows(theirs, 3)
    if newer:
        special = dict(content="</s>", special=True)
        brand, word, mark = (dict(content=text, special=text == "<mark>") for text in ("<brand>", "Zauberwort", "<mark>"))
        rewrite(theirs / "tokenizer_config.json", added_tokens_decoder={"0": special, "77": brand, "78": word, "79": mark})
    else:
        rewrite(theirs / "added_tokens.json", **{"<brand>": 77, "Zauberwort": 78, "<mark>": 79})
        rewrite(theirs / "special_tokens_map.json", additional_special_tokens=["<mark>"])
    import_run(str(theirs), str(tmp_path / "run"))
    tokenizer = Run(tmp_path / "run").tokenizer()
    plain = Run.open_or_create(tmp_path / "other", Config())
    tokenizer.copy_to(plain.tokenizer_folder)
    for each in (tokenizer, plain.tokenizer()):
        lines = [
            "the <brand> dog",
            "the<brand>dog",
            "Zauberwort the",
            "theZauberwortdog",
            ">>deu<< the <brand>",
            " <mark> x",
            "",
        ]
        expected = [[41, 77, 1, 0], [41, 77, 1, 0], [78, 41, 0], [41, 78, 1, 0], [14, 41, 77, 0], [79, 65, 1, 0], [0]]
        assert [row.tolist() for row in each.encode_source(lines)] == expected
        rows = [[41, 77, 0], [78, 41, 0], [79, 41, 0], [14, 41, 77, 0]]
        assert each.decode(rows) == ["the<brand>", "Zauberwort the", "the", ">>deu<< the<brand>"]
        assert each.added_pieces() == {77: False, 78: False, 79: True}
    export_run(str(tmp_path / "run"), str(tmp_path / "again"))
    again = {name: json.loads((tmp_path / "again" / f"{name}.json").read_text()) for name in ("vocab", "added_tokens")}
    assert again["added_tokens"] == {"<brand>": 77, "Zauberwort": 78, "<mark>": 79} and len(again["vocab"]) == 77
    import_run(str(tmp_path / "again"), str(tmp_path / "third"))
    assert Run(tmp_path / "third").tokenizer().fingerprint == tokenizer.fingerprint


def test_added_tokens_that_cannot_be_are_told(theirs, tmp_path):
    rewrite(theirs / "added_tokens.json", **{"<brand>": 77})
    assert import_run(str(theirs), str(tmp_path / "run")) == [
        "added tokens without a row in the embedding, which are read as text: <brand>"
    ]
    for wrong, told in (({"<brand>": 5}, "has the number 5, in vocab.json"), ({"<brand>": "x"}, "expected a token and a row")):
        (theirs / "added_tokens.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=rf"added_tokens\.json: '<brand>' {told}|{told}"):
            import_run(str(theirs), str(tmp_path / "wrong"))


# Marian's other vocabularies


@pytest.fixture
def marians(tmp_path) -> Path:
    folder = Path(shutil.copytree(FIXTURES / "opus", tmp_path / "marians"))
    (folder / "decoder.yml").unlink()
    return folder


def pieces_of(folder: Path) -> list[str]:
    rows = parse_vocabulary((folder / "opus.vocab.yml").read_bytes(), folder)
    return sorted(rows, key=rows.__getitem__)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\t-1.5\n"])
def test_a_plain_text_vocabulary_is_that_in_yaml(ending, marians, runs, reference, tmp_path):
    lines = "".join(f"{piece}{ending}" for piece in pieces_of(marians))
    (marians / "opus.vocab.yml").unlink()
    (marians / "vocab.txt").write_bytes(lines.encode())
    import_run(str(marians), str(tmp_path / "run"))
    found, expected = Translator.load(tmp_path / "run"), Translator.load(runs[0] / "opus")
    assert found.tokenizer.fingerprint == expected.tokenizer.fingerprint
    assert_trees_equal(found.params, expected.params)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:5], "", *lines[5:]], r"vocab\.txt: line 6 is empty; expected a piece a line"),
        (lambda lines: [*lines, lines[4]], r"vocab\.txt: line 77: .* is line 5, too; expected each piece once"),
        (lambda lines: lines[1:], r"vocab\.txt: has no </s>"),
        (lambda lines: [*lines, "one more"], r"vocab\.txt: 'one more' has the number 76; expected one from 0 to 75"),
        (lambda lines: [*lines[:3], "\udcff", *lines[4:]], r"vocab\.txt: line 4 is not UTF-8"),
        (lambda lines: [], r"vocab\.txt: line 1 is empty"),
    ],
)
def test_a_plain_text_vocabulary_that_is_none(change, told, marians, tmp_path):
    lines = change(pieces_of(marians))
    (marians / "opus.vocab.yml").unlink()
    (marians / "vocab.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=told):
        import_run(str(marians), str(tmp_path / "run"))


def test_fewer_pieces_than_rows_leave_rows_without_a_piece(marians, tmp_path):
    lines = pieces_of(marians)[:-1]
    (marians / "opus.vocab.yml").unlink()
    (marians / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    import_run(str(marians), str(tmp_path / "run"))
    assert Run(tmp_path / "run").tokenizer().pieces([74, 75, 76]) == [lines[-1], "<row 75>", "<pad>"]


@pytest.mark.parametrize("doubled", ["opus.vocab.yml", "opus.vocab.json"])
def test_a_piece_with_two_numbers_is_told(doubled, marians, tmp_path):
    (marians / "opus.vocab.yml").unlink()
    is_json = doubled.endswith("json")
    text = '{"</s>": 0, "<unk>": 1, "a": 2, "a": 3}' if is_json else "</s>: 0\n<unk>: 1\na: 2\na: 3\n"
    (marians / doubled).write_text(text)
    with pytest.raises(UserError, match="'a' comes twice" if is_json else "line 4: 'a' has another number above"):
        import_run(str(marians), str(tmp_path / "run"))


def sentencepiece_model(**options) -> bytes:
    model = io.BytesIO()
    ids = dict(bos_id=-1, eos_id=0, unk_id=1, pad_id=-1)  # as marian trains it
    given = dict(vocab_size=76, hard_vocab_limit=False, user_defined_symbols=[">>deu<<"], minloglevel=2) | ids | options
    lines = iter(sentences(ENGLISH, 200, 0) + sentences(GERMAN, 200, 0))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **given)
    return model.getvalue()


@pytest.mark.parametrize("options", [{}, dict(model_type="bpe", eos_id=2, unk_id=0, bos_id=1)], ids=str)
def test_a_sentencepiece_model_that_is_the_vocabulary_has_its_own_ids(options, marians, tmp_path):
    model = sentencepiece_model(**options)
    expected = sentencepiece.SentencePieceProcessor(model_proto=model)
    (marians / "opus.vocab.yml").unlink()
    for name in ("source.spm", "target.spm"):  # neither is needed
        (marians / name).unlink()
    (marians / "vocab.spm").write_bytes(model)
    size = expected.get_piece_size()
    with np.load(marians / "opus.npz") as arrays:
        weights = dict(arrays)
    for rows in (size, size + 2):  # tables may have more rows than there are pieces
        for name, axis in (("Wemb", 0), ("decoder_ff_logit_out_b", 1)):
            weights[name] = np.resize(weights[name], [rows, 16] if not axis else [1, rows])
        np.savez(marians / "opus.npz", **weights)
        import_run(str(marians), str(tmp_path / f"run{rows}"))
        translator = Translator.load(tmp_path / f"run{rows}")
        tokenizer, eos = translator.tokenizer, expected.eos_id()
        assert (tokenizer.eos_id, tokenizer.unknown_id) == (eos, expected.unk_id())
        assert tokenizer.pad_id == tokenizer.decoder_start_id == rows == tokenizer.vocab_size - 1
        lines = [*sentences(ENGLISH, 20, 3), ">>deu<< the dog", "the >>deu<< dog", "½ 你 x", "", "<pad> </s> <row 76>"]
        for encode in (tokenizer.encode_source, tokenizer.encode_target):
            assert [row.tolist() for row in encode(lines)] == [[*expected.encode(line), eos] for line in lines]
        assert tokenizer.decode(expected.encode(lines[:20])) == expected.decode(expected.encode(lines[:20]))
        np.testing.assert_array_equal(translator.params["target_embedding"]["table"][:rows], weights["Wemb"])
        assert not translator.params["target_embedding"]["table"][rows:].any()
    weights["Wemb"] = weights["Wemb"][: size - 1]
    np.savez(marians / "opus.npz", **weights)
    with pytest.raises(UserError, match=rf"vocab\.spm: .* has the number {size - 1}; expected one from 0 to {size - 2}"):
        import_run(str(marians), str(tmp_path / "fewer"))
    (marians / "vocab.spm").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"vocab\.spm: damaged, not a SentencePiece model"):
        import_run(str(marians), str(tmp_path / "damaged"))


def test_decoder_yml_names_the_vocabulary_or_one_must_be_alone(marians, tmp_path):
    shutil.copy(marians / "opus.vocab.yml", marians / "other.vocab.yml")
    with pytest.raises(
        UserError, match=r"expected one vocabulary .*, found opus\.vocab\.yml, other\.vocab\.yml; decoder\.yml may"
    ):
        import_run(str(marians), str(tmp_path / "run"))
    (marians / "decoder.yml").write_text("vocabs: [other.vocab.yml, opus.vocab.yml]")
    import_run(str(marians), str(tmp_path / "run"))
    (marians / "decoder.yml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nvocabs: *b")
    with pytest.raises(UserError, match=r"decoder\.yml: damaged, expected YAML .*an alias"):
        import_run(str(marians), str(tmp_path / "aliases"))


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("config.json", {"vocab_size": 1 << 50}, "vocab_size: 1125899906842624 .expected a whole number"),
        (
            "config.json",
            {"vocab_size": 1000, "decoder_vocab_size": 1000},
            "vocab_size is 1000, but no table of the",
        ),
        ("config.json", {"encoder_layers": 1000}, "weights are not those of 1001 layers"),
        ("config.json", {"d_model": 1 << 16}, "has shape"),
    ],
)
def test_sizes_that_no_file_has_are_told_before_memory_is_taken(file, changes, told, theirs, tmp_path):
    rewrite(theirs / file, **changes)
    with pytest.raises(UserError, match=told):
        import_run(str(theirs), str(tmp_path / "run"))


@pytest.mark.slow
def test_training_goes_on_from_an_imported_model(runs, tmp_path):
    base = runs[0] / "hugging_face"
    lines = ["the dog sleeps", "a cat runs", "an old man reads", "the cat reads a book"] * 4
    changes = {
        "data.train": write_tsv(tmp_path / "train.tsv", lines, ["der Hund", "eine Katze", "kein Buch", "ein Mann"] * 4),
        "data.dev": write_tsv(tmp_path / "dev.tsv", ["the dog"], ["der Hund"]),
        "data.deduplicate": "false",
        "batch.max_length": "16",
        "batch.shapes": "1",
        "train.steps": "1",
        "train.init_from": str(base),
        "train.metric": "loss",
        "train.label_smoothing": "0",
        "train.samples": "0",
        "optimizer.learning_rate": "1e-6",
        "model.dropout": "0",
    }
    config = load_config(str(base / "config.json"), [f"{name}={value}" for name, value in changes.items()])
    train(config, str(tmp_path / "tuned"))
    before, after = Translator.load(base), Translator.load(tmp_path / "tuned", "latest")
    assert after.tokenizer.fingerprint == before.tokenizer.fingerprint
    moved = jax.tree.map(lambda old, new: float(np.abs(old - new).max()), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 1e-5
    assert train(config, str(tmp_path / "tuned")).step == 1  # goes on where it was, not from the other's again
    assert_trees_equal(Translator.load(tmp_path / "tuned", "latest").params, after.params)
    # The imported folder itself stays as it is.
    with pytest.raises(UserError, match=r"no optimizer state to go on from: .* --config\.train\.init_from="):
        train(Run(base).config, str(base))
