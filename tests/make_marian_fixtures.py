"""Makes tests/marian: a small random Marian model in both forms, and what Hugging Face's classes make of it.

    pip install torch transformers && python tests/make_marian_fixtures.py

`hugging_face/` is what their `save_pretrained` writes, `opus/` the same numbers under Marian's names with the files that
OPUS-MT ships, and `reference.json` and `reference.npz` are what MarianTokenizer and MarianMTModel say to some lines. The
tests compare with these where neither is installed.
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import sentencepiece
import yaml

FOLDER = Path(__file__).parent / "marian"
ENGLISH = "the dog sleeps and a cat runs across the green meadow while an old man reads no book in 1 or 2 small houses".split()
GERMAN = (
    "der Hund schläft und eine Katze läuft über die grüne Wiese während ein alter Mann kein Buch in 1 oder 2 Häusern".split()
)
SIZES = dict(d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
SIZES |= dict(encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, activation_function="swish")
LINES = [
    "the dog sleeps.",
    ">>deu<< a cat runs across the green meadow",
    ">>deu<<an old man",
    ">>xyz<< the cat",
    ">> a quote",
    "the >>deu<< cat",
    "  two   spaces  ",
    "",
    " ",
    "ﬁsh & ½ 你好, „Größe“ 👩‍👧 a\u00a0b \t x\u200by",
    "no 1 null ~ true",
    "der Hund",
]


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, random.integers(1, 9))) + random.choice([".", "", "!"]) for _ in range(count)]


def make_tokenizer(folder: Path, seed: int = 0, **options) -> list[str]:
    """Writes `source.spm`, `target.spm` and `vocab.json`; returns the pieces by their numbers, which are those of neither."""
    folder.mkdir(parents=True, exist_ok=True)
    rules = folder / "rules.tsv"  # a small stand-in for the 240 kB of NFKC
    rules.write_text("FB01\t66 69\nBD\t31 2F 32\nA0\t20\n9\t20\n200B\t20\n")
    pieces = set()
    for side, words in (("source", ENGLISH), ("target", GERMAN)):
        model = io.BytesIO()
        given = dict(model_type="unigram", vocab_size=70, normalization_rule_tsv=str(rules)) | options
        if "normalization_rule_name" in options:
            del given["normalization_rule_tsv"]
        text = iter(sentences(words, 400, seed))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=text, model_writer=model, hard_vocab_limit=False, minloglevel=2, **given
        )
        (folder / f"{side}.spm").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces |= {processor.id_to_piece(i) for i in range(processor.get_piece_size())} - {"<s>", "</s>", "<unk>"}
    rules.unlink()
    # As in OPUS-MT's: pieces that one side's model has and the vocabulary has not, and the other way round.
    kept = [piece for i, piece in enumerate(sorted(pieces)) if i % 17 != 16]
    vocabulary = ["</s>", "<unk>", *np.random.default_rng(seed).permutation([*kept, ">>deu<<", "no", "1", "你"]).tolist()]
    vocabulary = list(dict.fromkeys([*vocabulary, "<pad>"]))
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    return vocabulary


def random_model(vocabulary: list[str], seed: int = 0, **options):
    """A MarianMTModel in which nothing is 0 or 1 but what the decoder starts with, and whose logits lie far apart."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    pad = len(vocabulary) - 1
    ids = dict(pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0, forced_eos_token_id=0)
    given = SIZES | ids | dict(vocab_size=len(vocabulary), scale_embedding=True, init_std=0.3, num_beams=6) | options
    model = MarianMTModel(MarianConfig(**given)).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if "embed_positions" in name:
                continue
            shift, scale = (1.0 if "norm.weight" in name else 0.0), (0.3 if weight.ndim > 1 and len(weight) > 1 else 0.2)
            weight.copy_(shift + scale * torch.randn(weight.shape, generator=random))
            if re.search(r"shared|embed_tokens", name):
                weight[pad] = 0
        model.final_logits_bias[0, pad] = 0
    return model


def logits_of(model, source: np.ndarray, target: np.ndarray, pad: int) -> np.ndarray:
    import torch

    with torch.no_grad():
        source = torch.from_numpy(source).long()
        found = model(
            input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=torch.from_numpy(target).long()
        )
    return found.logits.numpy()


def marian_name(name: str) -> str:
    """Of a weight under Hugging Face's name.

    >>> marian_name("model.decoder.layers.1.encoder_attn.out_proj.bias")
    'decoder_l2_context_bo'
    """
    if name in (fixed := {"model.shared.weight": "Wemb", "final_logits_bias": "decoder_ff_logit_out_b"}):
        return fixed[name]
    _, stack, _, layer, part, *rest = name.split(".")
    layer = f"{stack}_l{int(layer) + 1}"
    if part.endswith("layer_norm"):
        sublayer = {"self_attn": "self_Wo", "encoder_attn": "context_Wo", "final": "ffn_ffn"}[part.removesuffix("_layer_norm")]
        return f"{layer}_{sublayer}_ln_{'scale' if rest[-1] == 'weight' else 'bias'}"
    letter = "W" if rest[-1] == "weight" else "b"
    if part in ("fc1", "fc2"):
        return f"{layer}_ffn_{letter}{part[-1]}"
    return f"{layer}_{'self' if part == 'self_attn' else 'context'}_{letter}{rest[0][0]}"


def write_opus(folder: Path, model, vocabulary: list[str], origin: Path) -> None:
    """The model as OPUS-MT ships it: without <pad>, matrices with the inputs first, vectors as rows."""
    folder.mkdir(parents=True, exist_ok=True)
    size = len(vocabulary) - 1
    arrays = {}
    tied = {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    for name, tensor in model.state_dict().items():
        if name in tied or "embed_positions" in name:
            continue
        array = tensor.numpy()
        if name == "model.shared.weight":
            array = array[:size]
        elif array.ndim == 2:
            array = array[:, :size] if len(array) == 1 else array.T
        arrays[marian_name(name)] = array.reshape(-1, array.shape[-1])
    config = model.config
    options = {
        "type": "transformer",
        "dim-emb": config.d_model,
        "dim-vocabs": [size, size],
        "enc-depth": config.encoder_layers,
        "dec-depth": config.decoder_layers,
        "transformer-heads": config.encoder_attention_heads,
        "transformer-dim-ffn": config.encoder_ffn_dim,
        "transformer-ffn-activation": config.activation_function,
        "transformer-ffn-depth": 2,
        "transformer-decoder-autoreg": "self-attention",
        "transformer-no-projection": False,
        "transformer-guided-alignment-layer": "last",
        "transformer-preprocess": "",
        "transformer-postprocess": "dan",
        "transformer-postprocess-emb": "d",
        "transformer-train-position-embeddings": False,
        "tied-embeddings": False,
        "tied-embeddings-all": True,
        "tied-embeddings-src": False,
    }
    text = yaml.safe_dump(options).encode() + b"\0"
    np.savez_compressed(folder / "opus.npz", **arrays, **{"special:model.yml": np.frombuffer(text, np.int8)})
    lines = [f"{json.dumps(piece, ensure_ascii=False)}: {number}\n" for number, piece in enumerate(vocabulary[:-1])]
    (folder / "opus.vocab.yml").write_text("".join(lines), encoding="utf-8")
    decoder = {"models": ["opus.npz"], "vocabs": ["opus.vocab.yml"] * 2, "beam-size": 6, "normalize": 1, "word-penalty": 0}
    (folder / "decoder.yml").write_text(yaml.safe_dump(decoder))
    for name in ("source.spm", "target.spm"):
        shutil.copy(origin / name, folder / name)


def main() -> None:
    from transformers import MarianTokenizer

    shutil.rmtree(FOLDER, ignore_errors=True)
    folder = FOLDER / "hugging_face"
    vocabulary = make_tokenizer(folder)
    model = random_model(vocabulary)
    model.save_pretrained(folder)
    write_opus(FOLDER / "opus", model, vocabulary, folder)
    tokenizer = MarianTokenizer.from_pretrained(folder)
    source, target = tokenizer(LINES), tokenizer(text_target=LINES)
    pad = len(vocabulary) - 1
    random = np.random.default_rng(1)
    rows = random.integers(1, pad, (4, 9)).astype(np.int32)
    rows[1, 5:], rows[2, 1:] = pad, pad
    inputs = random.integers(1, pad, (4, 7)).astype(np.int32)
    inputs[:, 0] = pad
    np.savez_compressed(FOLDER / "reference.npz", source=rows, target=inputs, logits=logits_of(model, rows, inputs, pad))
    drawn = [random.integers(2, pad, 8).tolist() for _ in range(10)]
    reference = {
        "lines": LINES,
        "source": source["input_ids"],
        "target": target["input_ids"],
        "rows": drawn,
        "texts": [tokenizer.decode(row, skip_special_tokens=True) for row in drawn],
    }
    (FOLDER / "reference.json").write_text(json.dumps(reference, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
