"""Marian models of several shapes in Hugging Face's and CTranslate2's own code: the same logits, tokens and translations."""

import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import assert_trees_equal, letters, random_parameters, tiny_model
from make_marian_fixtures import ENGLISH, GERMAN, logits_of, make_tokenizer, random_model, sentences, write_opus
from test_marian import logits_of as our_logits
from test_tokenizer import NASTY

from transformer_jax.config import Config, TokenizerConfig
from transformer_jax.data import demo
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.ctranslate2 import export as export_ctranslate2
from transformer_jax.interop.hugging_face_writer import class_of
from transformer_jax.interop.marian import export_run, import_run, write_model
from transformer_jax.interop.safetensors import read_safetensors
from transformer_jax.models.seq2seq import build_model
from transformer_jax.tokenization.tokenizer import Tokenizer

pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("quick_compilation")]

SHAPES = {
    "OPUS-MT's, small": {},
    "deep encoder, one head": dict(encoder_layers=4, encoder_attention_heads=1, decoder_attention_heads=1),
    "wide, ReLU": dict(d_model=64, encoder_ffn_dim=96, decoder_ffn_dim=96, decoder_layers=3, activation_function="relu"),
    "GELU, embeddings not scaled": dict(activation_function="gelu_new", scale_embedding=False),
    "exact GELU": dict(activation_function="gelu"),
    "target tied": dict(share_encoder_decoder_embeddings=False),
    "untied": dict(share_encoder_decoder_embeddings=False, tie_word_embeddings=False),
}
OURS = {
    "the paper's": dict(),
    "interleaved, untied, GELU": dict(tied_embeddings="none", activation="gelu", output_bias=True, decoder_layers=1),
    "Marian's sinusoids, target tied": dict(positions="sinusoidal_marian", tied_embeddings="target", activation="silu"),
    "concatenated from position 2, biases": dict(
        positions="sinusoidal_concatenated", first_position=2, attention_bias=True, scale_embedding=False
    ),
    "pre-norm": dict(norm="pre"),
    "pre-norm, one decoder layer, SiLU": dict(norm="pre", decoder_layers=1, activation="silu", output_bias=True),
    "pre-norm, concatenated, biases, GELU": dict(
        norm="pre", positions="sinusoidal_concatenated", activation="gelu", attention_bias=True, scale_embedding=False
    ),
}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="torch is not installed; make test-interop installs it")
    return pytest.importorskip("transformers", reason="transformers is not installed; make test-interop installs it")


def ids(size: int, pad: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    source, target = (draw.integers(1, min(size, pad), (5, length)).astype(np.int32) for length in (11, 9))
    source[1, 6:] = source[3, 1:] = pad
    target[:, 0] = pad
    return source, target


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_in_and_out_again(options, transformers, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    vocabulary = make_tokenizer(before)
    model = random_model(vocabulary, **options)
    model.save_pretrained(before)
    import_run(str(before), str(tmp_path / "run"))
    translator, pad = Translator.load(tmp_path / "run"), len(vocabulary) - 1
    source, target = ids(pad, pad)
    expected = logits_of(model, source, target, pad)
    difference = np.abs(our_logits(translator, source, target) - expected).max()
    print(f"\nlargest difference of logits: {difference:.1e}, of {expected.std():.1f} standard deviation")
    assert difference < 1e-4 and expected.std() > 0.5
    export_run(str(tmp_path / "run"), str(after))
    assert_trees_equal(read_safetensors(after / "model.safetensors"), read_safetensors(before / "model.safetensors"))
    again = transformers.MarianMTModel.from_pretrained(after).eval()
    np.testing.assert_array_equal(logits_of(again, source, target, pad), expected)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6])
@pytest.mark.parametrize("options", OURS.values(), ids=OURS)
def test_our_own_in_hugging_face(options, epsilon, transformers, tmp_path):
    config = Config()
    config.model = tiny_model(num_layers=2, norm_epsilon=epsilon, **options)
    tokenizer = Tokenizer.train(letters(100, 8), TokenizerConfig(vocab_size=276), tmp_path / "tokenizer")
    params = random_parameters(build_model(config.model, tokenizer.vocab_size))
    write_model(params, tokenizer, config, tmp_path / "out")
    model, loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    model.eval()
    assert type(model).__name__ == class_of(config.model)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    source, target = ids(tokenizer.vocab_size, tokenizer.vocab_size)
    source[source == tokenizer.vocab_size] = tokenizer.pad_id
    target[:, 0] = tokenizer.decoder_start_id
    translator = Translator(build_model(config.model, tokenizer.vocab_size), params, tokenizer, config)
    found, expected = logits_of(model, source, target, tokenizer.pad_id), our_logits(translator, source, target)
    difference = np.abs(found - expected).max()
    print(f"\nlargest difference of logits, epsilon {epsilon:g}: {difference:.1e}, of {expected.std():.1f} standard deviation")
    assert difference < (1e-4 if epsilon == 1e-5 else 1e-3)
    lines = letters(20, 8, seed=3)
    expected = [row.tolist() for row in tokenizer.encode_source([*lines, "½ 你"])]
    for kind in (transformers.MarianTokenizer, transformers.AutoTokenizer):
        assert kind.from_pretrained(tmp_path / "out")([*lines, "½ 你"])["input_ids"] == expected


def odd_lines(count: int) -> list[str]:
    draw = random.Random(0)
    alphabet = "abcdeinrstuüß.,-'\"1\u00a0\u2003\t\u200b\u0301你😀½ﬁ<>/&▁" + " " * 8
    noise = ["".join(draw.choices(alphabet, k=draw.randint(0, 30))) for _ in range(count)]
    return [*noise, *(f">>deu<< {line}" for line in noise[::10]), *(f">>{line}<<{line}" for line in noise[::10])]


@pytest.mark.parametrize("options", [{}, dict(normalization_rule_name="nmt_nfkc"), dict(model_type="bpe")], ids=str)
def test_tokenizers_agree(options, transformers, tmp_path):
    folder = tmp_path / "hugging_face"
    vocabulary = make_tokenizer(folder, **options)
    random_model(vocabulary).save_pretrained(folder)
    import_run(str(folder), str(tmp_path / "run"))
    ours = Tokenizer.load(tmp_path / "run" / "tokenizer")
    theirs = transformers.MarianTokenizer.from_pretrained(folder)
    lines = [*NASTY, *odd_lines(400), *sentences(ENGLISH, 100, 5), *sentences(GERMAN, 100, 6)]
    # What they take for a special piece is text for us: see the docstring of interop/marian.py.
    lines = [line for line in lines if not any(piece in line for piece in ("</s>", "<unk>", "<pad>"))]
    for encode, given in ((ours.encode_source, dict(text=lines)), (ours.encode_target, dict(text_target=lines))):
        expected = theirs(**given)["input_ids"]
        agree = sum(row.tolist() == other for row, other in zip(encode(lines), expected, strict=True))
        print(f"\n{agree} of {len(lines)} lines have the same tokens")
        assert agree == len(lines)
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, len(vocabulary), draw.integers(0, 12)).tolist() for _ in range(300)]
    cut = [row[: row.index(0)] if 0 in row else row for row in rows]  # they would go on after the end
    assert ours.decode(rows) == theirs.batch_decode(cut, skip_special_tokens=True)


def test_their_search_without_length_penalty_finds_the_same(transformers, tmp_path):
    folder = tmp_path / "hugging_face"
    vocabulary = make_tokenizer(folder)
    random_model(vocabulary, seed=3).save_pretrained(folder)
    import_run(str(folder), str(tmp_path / "run"))
    export_run(str(tmp_path / "run"), str(tmp_path / "out"))
    import torch

    lines = sentences(ENGLISH, 30, 7)
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.MarianMTModel.from_pretrained(tmp_path / "out").eval()
    never = [[theirs.pad_token_id], [theirs.unk_token_id]]
    same = 0
    translator = Translator.load(tmp_path / "run")
    expected = translator.translate(lines, beam=1)
    for line, each in zip(lines, expected, strict=True):
        with torch.no_grad():
            length = {"max_new_tokens": len(each.tokens)}
            found = model.generate(**theirs(line, return_tensors="pt"), num_beams=1, bad_words_ids=never, **length)
        same += found[0, 1:].tolist() == list(each.tokens)
    print(f"\n{same} of {len(lines)} translations by greedy search are the same")
    assert same == len(lines)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_their_beam_search_of_a_trained_model_finds_the_same(penalty, transformers, tmp_path):
    """With their formula of the length penalty, until no other can win, and of lines that are not cut into pieces here."""
    import torch

    torch.set_num_threads(1)
    run = Path(__file__).parent / "runs" / "9f7c919"
    export_run(str(run), str(tmp_path / "out"), "latest")
    translator, longest = Translator.load(run), 40
    lines = [example.source for example in demo.generate("test", 40)]
    lines = [line for line, ids in zip(lines, translator.tokenizer.encode_source(lines), strict=True) if len(ids) < 45]
    search = dict(beam=4, length_penalty=penalty, length_normalization="power")
    ours = translator.translate(lines, **search, max_length_ratio=0, max_length_extra=longest)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    same = 0
    for line, each in zip(lines, ours, strict=True):
        with torch.no_grad():
            length = dict(max_new_tokens=longest, max_length=None)
            search = dict(num_beams=4, length_penalty=penalty, early_stopping="never")
            (found,) = model.generate(**tokenizer(line, return_tensors="pt"), **search, **length)
        same += found[1:].tolist() == list(each.tokens) and tokenizer.decode(found, skip_special_tokens=True) == each.text
    print(f"\n{same} of {len(lines)} translations with beam 4 are the same")
    assert same == len(lines) > 10 and len({each.text for each in ours}) > 10


def test_ctranslate2_says_the_same_from_every_form(transformers, tmp_path):
    """Greedy search and given translations. A beam is another search with a shortest length, and without one a random model's
    best translation is empty."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed; make test-interop installs it")
    from ctranslate2.converters import MarianConverter, TransformersConverter

    folder, opus = tmp_path / "hugging_face", tmp_path / "opus"
    vocabulary = make_tokenizer(folder)
    model = random_model(vocabulary, seed=3)
    model.final_logits_bias[0, 0] = 3.5  # translations end
    # Theirs have no <pad>, and with probabilities that small it does not matter whether <unk> is taken out before or after.
    model.final_logits_bias[0, [1, len(vocabulary) - 1]] = -1e4
    model.save_pretrained(folder)
    write_opus(opus, model, vocabulary, folder)
    import_run(str(folder), str(tmp_path / "run"))
    export_run(str(tmp_path / "run"), str(tmp_path / "again"))
    # From the folder that we wrote by their converter (which leaves EOS to the caller), from Marian's file by theirs (which
    # takes Hugging Face's sinusoids), and from the run by ours.
    TransformersConverter(str(tmp_path / "again")).convert(str(tmp_path / "a"))
    MarianConverter(str(opus / "opus.npz"), [str(opus / "opus.vocab.yml")]).convert(str(tmp_path / "b"))
    export_ctranslate2(str(tmp_path / "run"), str(tmp_path / "c"))
    translator = Translator.load(tmp_path / "run")
    tokenizer, lines, longest, shortest = translator.tokenizer, sentences(ENGLISH, 60, 8), 30, 5
    pieces = [tokenizer.source_pieces(row) for row in tokenizer.encode_source(lines, add_eos=False)]
    lengths = dict(max_length_ratio=0, max_length_extra=longest, min_length_extra=shortest + 1)  # ours count EOS
    ours = translator.translate(lines, beam=1, length_penalty=0, **lengths)
    found = [tokenizer.pieces([token for token in each.tokens if token != tokenizer.eos_id]) for each in ours]
    given = tokenizer.encode_target(sentences(GERMAN, 60, 9), add_eos=False)
    scores = translator.score(lines, [[*row, tokenizer.eos_id] for row in given])
    known = [i for i, row in enumerate(given) if tokenizer.unknown_id not in row]  # there all probabilities are 0
    ended = [i for i, each in enumerate(found) if len(each) < longest - 1]  # ours forces EOS at the end, theirs cuts
    for name in "abc":
        theirs = ctranslate2.Translator(str(tmp_path / name), compute_type="float32")
        rows = [[*row, "</s>"] for row in pieces] if name == "a" else pieces
        same = theirs.translate_batch(rows, beam_size=1, min_decoding_length=shortest, max_decoding_length=longest)
        count = sum(same[i].hypotheses[0] == found[i] for i in ended)
        print(f"\n{name}: {count} of {len(ended)} translations are the same")
        assert count == len(ended) > 20
        scored = theirs.score_batch(rows, [tokenizer.pieces(row) for row in given])
        differences = [np.abs(np.subtract(scored[i].log_probs, scores[i].token_log_probs)).max() for i in known]
        print(f"{name}: largest difference of log-probabilities of {len(known)} translations: {max(differences):.1e}")
        assert max(differences) < 3e-4
    assert len({tuple(found[i]) for i in ended}) > 10


def test_a_pickled_folder_is_read(transformers, tmp_path):
    import torch

    folder = tmp_path / "hugging_face"
    model = random_model(make_tokenizer(folder))
    model.save_pretrained(folder)
    import_run(str(folder), str(tmp_path / "run"))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # with all tied tables, and those of positions
    import_run(str(folder), str(tmp_path / "again"))
    assert_trees_equal(*(Translator.load(tmp_path / name).params for name in ("run", "again")))


def test_the_fixtures_are_what_the_script_makes(transformers, tmp_path):
    """So that they can be made again, and changed."""
    vocabulary = make_tokenizer(tmp_path)
    kept = Path(__file__).parent / "marian" / "hugging_face"
    assert json.loads((kept / "vocab.json").read_text(encoding="utf-8")) == {piece: i for i, piece in enumerate(vocabulary)}
    random_model(vocabulary).save_pretrained(tmp_path)
    found, expected = (read_safetensors(folder / "model.safetensors") for folder in (tmp_path, kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
