"""Do other programs compute the same with the weights of a trained run?

    python benchmarks/exchange.py --workdir=runs/mine --test data/test

Exports the run to a MarianMTModel's folder and to CTranslate2 (by our exporter, and from that folder by theirs), and compares
on a whole test set: logits under teacher forcing, parameters that went out and came in again, log-probabilities of the
references, translations by the same search (beam; score log P / n^a for each `--length_penalty` a) and their scores. It tells
the lines whose translations differ, with the log-probability of both. Needs what `make test-interop` installs.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from outputs import require

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up

ROWS = 64


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--test", required=True, help="a test set, as for evaluate.py")
    parser.add_argument("--beam", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--length_penalty", nargs="+", type=float, default=[0.0, 1.0])
    flags = parser.parse_args()
    if min(flags.beam) < 1:
        parser.error("--beam should be at least 1")
    require("torch", "transformers", "ctranslate2")
    set_up()
    from transformer_jax import Translator, read_pairs
    from transformer_jax.runs.run_folder import Run

    translator = Translator.load(flags.workdir, flags.checkpoint)
    data = Run(flags.workdir).config.data
    pairs = read_pairs(flags.test, data.source_language, data.target_language)
    with tempfile.TemporaryDirectory() as folder:
        if translator.model.config.norm == "post":
            compare_hugging_face(translator, flags, pairs, folder)
        else:
            print("MarianMTModel has no pre-norm: CTranslate2 alone")
        compare_ctranslate2(translator, flags, pairs, folder)


def compare_hugging_face(translator: Any, flags: Any, pairs: Any, folder: str) -> None:
    import jax
    import torch
    from transformers import MarianMTModel, MarianTokenizer

    from transformer_jax import Translator
    from transformer_jax.interop.marian import completed, export_run, import_run

    tokenizer, config = translator.tokenizer, translator.model.config
    for note in export_run(flags.workdir, f"{folder}/hugging_face", flags.checkpoint)[1]:
        print(f"note: {note}")
    model = MarianMTModel.from_pretrained(f"{folder}/hugging_face").eval()
    theirs = MarianTokenizer.from_pretrained(f"{folder}/hugging_face")
    agree = sum(
        theirs(text)["input_ids"] == row.tolist() for text, row in zip(pairs.source, encoded(translator, pairs), strict=True)
    )
    print(f"{agree} of {len(pairs.source)} sources have the same tokens")
    print(f"logits, as exported: at most {furthest_logits(translator, model, pairs):.1e} apart")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = config.norm_epsilon
    print(f"logits, with our layer norm's epsilon: at most {furthest_logits(translator, model, pairs):.1e} apart")
    import_run(f"{folder}/hugging_face", f"{folder}/again")
    before = jax.tree.leaves(completed(translator.params, config, tokenizer.vocab_size)[0])
    after = jax.tree.leaves(Translator.load(f"{folder}/again").params)
    same = sum(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    print(f"out and in again: {same} of {len(before)} arrays have the same bits")


def encoded(translator: Any, pairs: Any) -> list[np.ndarray]:
    return translator.tokenizer.encode_source(pairs.source)


def furthest_logits(translator: Any, model: Any, pairs: Any) -> float:
    """Over all tokens of all references."""
    import jax
    import torch

    from transformer_jax import Batch

    tokenizer = translator.tokenizer
    apply = jax.jit(lambda params, batch: translator.model.apply({"params": params}, batch, train=False))
    sources, targets = encoded(translator, pairs), tokenizer.encode_target(pairs.target)
    most = 0.0
    for start in range(0, len(sources), ROWS):
        some = sources[start : start + ROWS], targets[start : start + ROWS]
        (source, source_mask), (target, target_mask) = (filled(rows, tokenizer.pad_id) for rows in some)
        shifted = np.concatenate([np.full((len(target), 1), tokenizer.decoder_start_id, np.int32), target[:, :-1]], axis=1)
        places = [np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape) for ids in (source, target)]
        batch = Batch(source, source_mask, places[0], shifted, target, target_mask, places[1])
        ours = np.asarray(apply(translator.params, batch))
        with torch.inference_mode():
            ids = (torch.from_numpy(each.astype(np.int64)) for each in (source, source_mask, shifted))
            found = model(**dict(zip(("input_ids", "attention_mask", "decoder_input_ids"), ids, strict=True))).logits.numpy()
        most = max(most, float(np.abs(ours - found)[target_mask > 0].max()))
    return most


def filled(rows: list[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as a rectangle, as wide as a multiple of 16, and 1 where it is not padded; int32 [B, S]."""
    width = -(-max(map(len, rows)) // 16) * 16
    ids, mask = np.full((len(rows), width), pad_id, np.int32), np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


def compare_ctranslate2(translator: Any, flags: Any, pairs: Any, folder: str) -> None:
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    from transformer_jax.interop.ctranslate2 import export

    tokenizer = translator.tokenizer
    export(flags.workdir, f"{folder}/ours", flags.checkpoint)
    models = {"our exporter": f"{folder}/ours"}
    if Path(f"{folder}/hugging_face").exists() and decoder_starts_with_zeros(translator):
        TransformersConverter(f"{folder}/hugging_face").convert(f"{folder}/theirs")
        models["their converter"] = f"{folder}/theirs"
    source = [tokenizer.source_pieces(row) for row in tokenizer.encode_source(pairs.source, add_eos=False)]
    target = tokenizer.encode_target(pairs.target, add_eos=False)
    longest = max(map(len, source))
    limit = int(translator.config.max_length_ratio * longest) + translator.config.max_length_extra
    given = translator.score(pairs.source, [[*row, tokenizer.eos_id] for row in target])
    for name, path in models.items():
        model = ctranslate2.Translator(path, compute_type="float32")
        rows = [[*row, "</s>"] for row in source] if name == "their converter" else source
        scored = model.score_batch(rows, [tokenizer.pieces(row) for row in target])
        apart = max(abs(each.log_prob - sum(theirs.log_probs)) for each, theirs in zip(given, scored, strict=True))
        print(f"\n{name}: log-probabilities of the references at most {apart:.1e} apart")
        for beam, penalty in itertools.product(flags.beam, flags.length_penalty):
            if beam == 1 and penalty:
                continue  # a greedy search has no use for it
            # One limit for all systems. Ours counts EOS and forces it at the limit, where the others cut.
            lengths = dict(max_length_ratio=0.0, max_length_extra=limit)
            scored_by = dict(length_penalty=penalty, length_normalization="power")
            ours = translator.translate(pairs.source, beam=beam, **scored_by, **lengths)
            # With a patience of 1 CTranslate2 ends a search when `beam` hypotheses have, better ones to come or not.
            options = dict(beam_size=beam, length_penalty=penalty, patience=2 if penalty else 1)
            options |= dict(max_decoding_length=limit - 1, min_decoding_length=0)
            found = model.translate_batch(rows, return_scores=True, max_batch_size=2048, batch_type="tokens", **options)
            name_of_search = f"{name}, beam {beam}" + (f", length penalty {penalty:g}" if penalty else "")
            compare_translations(translator, pairs.source, ours, found, limit, name_of_search)


def compare_translations(translator: Any, lines: list[str], ours: list[Any], found: list[Any], limit: int, name: str) -> None:
    tokenizer = translator.tokenizer
    pieces = [tokenizer.pieces([token for token in each.tokens if token != tokenizer.eos_id]) for each in ours]
    differ = [i for i, each in enumerate(found) if each.hypotheses[0] != pieces[i]]
    ended = [i for i, each in enumerate(ours) if len(each.tokens) < limit and i not in set(differ)]
    share = 1 - len(differ) / len(lines)
    print(f"{name}: {share:.1%} of {len(lines)} translations are the same")
    if ended:
        apart = max(abs(ours[i].score - found[i].scores[0]) for i in ended)
        print(f"    scores of the {len(ended)} of them that ended: at most {apart:.1e} apart")
    else:
        print("    none of them ended before the limit, so that no scores can be compared")
    row_of = {piece: i for piece, i in tokenizer.vocabulary().items()}
    for i in differ:
        theirs = [*(row_of[piece] for piece in found[i].hypotheses[0]), tokenizer.eos_id]
        (scored,) = translator.score([lines[i]], [theirs])
        print(f"    line {i + 1}\n      ours   {ours[i].log_prob:.6f} {ours[i].text}")
        print(f"      theirs {scored.log_prob:.6f} {tokenizer.decode([theirs])[0]}")


def decoder_starts_with_zeros(translator: Any) -> bool:
    """As their converter supposes; a model that was trained here has learned a piece to begin with."""
    table = translator.params["target_embedding"]["table"]
    return not np.any(table[translator.tokenizer.decoder_start_id])


if __name__ == "__main__":
    main(run)
