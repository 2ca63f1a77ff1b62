"""The systems that `decode_speed.py` times: for each a function that loads a run folder and returns its variants.

Every `translate(lines, beam)` goes from text to text and gives, for each line, the translation and its number of tokens, EOS
not counted. Batches are sorted by length everywhere.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import Config, ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.batched_search import positions_at_once
from transformer_jax.inference.translator import Translator, load_translator
from transformer_jax.interop.ctranslate2 import export
from transformer_jax.interop.hugging_face_writer import to_hugging_face, unsupported
from transformer_jax.interop.marian import completed
from transformer_jax.interop.marian_weights import HUGGING_FACE, from_parameters
from transformer_jax.models.layers import sinusoids
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run

_PLACES = 1024  # positions of Hugging Face's model, more than any line needs
Translate = Callable[[list[str], int], list[tuple[str, int]]]


class Settings(NamedTuple):
    workdir: str
    checkpoint: str
    threads: int
    length_penalty: float
    dtype: str = "float32"
    shortlist: int = 0
    accelerator: bool = False  # on the accelerator that JAX finds, not on the CPU


def load_ours(settings: Settings) -> dict[str, Translate]:
    """`Translator.translate` with the config's own batches."""
    translator, _ = load_translator(Run(settings.workdir), CheckpointName.parse(settings.checkpoint), settings.dtype)
    special = _special_ids(translator)
    translator.search_config(shortlist=settings.shortlist)  # which the run may not have

    def translate(lines: list[str], beam: int) -> list[tuple[str, int]]:
        options = dict(length_penalty=settings.length_penalty, shortlist=settings.shortlist)
        found = translator.translate(lines, beam=beam, **options)
        return [(each.text, sum(token not in special for token in each.tokens)) for each in found]

    return {f"{positions_at_once(translator.config)} positions at once": translate}


def load_ctranslate2(settings: Settings) -> dict[str, Translate]:
    """The variants by name: batches of several sizes, on a CPU for all threads in one worker and for one thread in each."""
    import ctranslate2

    workers, sizes, device = sorted({(1, settings.threads), (settings.threads, 1)}), (1024, 2048, 4096), "cpu"
    if settings.accelerator:
        workers, sizes, device = [(1, 1)], (4096, 16384, 65536), "cuda"
    with tempfile.TemporaryDirectory() as folder:
        export(settings.workdir, f"{folder}/model", settings.checkpoint)
        models = {}
        for inter, intra in workers:
            options = dict(device=device, compute_type=settings.dtype, inter_threads=inter, intra_threads=intra)
            try:
                models[inter, intra] = ctranslate2.Translator(f"{folder}/model", **options)
                models[inter, intra].translate_batch([["</s>"]], max_decoding_length=1)  # loads CUDA's libraries
            except (ValueError, RuntimeError) as error:
                raise UserError(f"CTranslate2 cannot compute in {settings.dtype} on {device}: {error}") from None
    run = Run(settings.workdir)
    tokenizer, decode = run.tokenizer(), run.config.decode
    ids = {piece: number for number, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}

    def variant(model: Any, tokens: int) -> Translate:
        def translate(lines: list[str], beam: int) -> list[tuple[str, int]]:
            rows = tokenizer.encode_source(lines, add_eos=False)
            longest = max(map(len, rows)) + 1
            found = model.translate_batch(
                [tokenizer.source_pieces(row) for row in rows],
                beam_size=beam,
                length_penalty=settings.length_penalty,
                max_batch_size=tokens,
                batch_type="tokens",
                max_decoding_length=int(decode.max_length_ratio * longest) + decode.max_length_extra,
            )
            rows = [[ids[piece] for piece in each.hypotheses[0]] for each in found]
            return list(zip(tokenizer.decode(rows), map(len, rows), strict=True))

        return translate

    return {
        f"{inter} x {intra} threads, batches of {tokens} tokens": variant(model, tokens)
        for (inter, intra), model in models.items()
        for tokens in sizes
    }


def load_hugging_face(settings: Settings) -> dict[str, Translate]:
    """The same weights in `MarianMTModel` (post-norm) or `M2M100ForConditionalGeneration` (pre-norm), and their `generate`."""
    import torch

    torch.set_num_threads(settings.threads)
    translator, _ = load_translator(Run(settings.workdir), CheckpointName.parse(settings.checkpoint))
    tokenizer, decode = translator.tokenizer, translator.config
    model = hugging_face_model(translator)
    special = _special_ids(translator)

    def variant(tokens: int) -> Translate:
        @torch.inference_mode()
        def translate(lines: list[str], beam: int) -> list[tuple[str, int]]:
            rows = tokenizer.encode_source(lines)
            order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
            found: list[list[int]] = [[]] * len(rows)
            while order:
                longest = len(rows[order[0]])
                count = max(tokens // longest, 1)
                batch, order = order[:count], order[count:]
                ids = np.full((len(batch), longest), tokenizer.pad_id)
                for row, i in zip(ids, batch, strict=True):
                    row[: len(rows[i])] = rows[i]
                generated = model.generate(
                    input_ids=torch.from_numpy(ids),
                    attention_mask=torch.from_numpy((ids != tokenizer.pad_id).astype(np.int64)),
                    num_beams=beam,
                    do_sample=False,
                    early_stopping=False if beam > 1 else None,  # ends when no unfinished hypothesis can win, as ours
                    length_penalty=settings.length_penalty if beam > 1 else None,
                    max_new_tokens=int(decode.max_length_ratio * longest) + decode.max_length_extra,
                )
                for i, row in zip(batch, generated.tolist(), strict=True):
                    found[i] = [token for token in row if token not in special]
            return list(zip(tokenizer.decode(found), map(len, found), strict=True))

        return translate

    return {f"batches of {tokens} tokens": variant(tokens) for tokens in (1024, 2048)}


def hugging_face_model(translator: Translator) -> Any:
    """The run's parameters in an equivalent model of Hugging Face Transformers. Raises UserError if there is none."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, MarianConfig, MarianMTModel

    config, tokenizer = translator.model.config, translator.tokenizer
    pre = config.norm == "pre"
    wrong = unsupported(dataclasses.replace(config, norm="post"), tokenizer)
    if wrong or (pre and (config.tied_embeddings != "all" or config.output_bias)):
        raise UserError(f"Hugging Face Transformers has no model with {', '.join(wrong) or 'pre-norm and these embeddings'}")
    complete, with_biases = completed(translator.params, config, tokenizer.vocab_size)
    weights = from_parameters(complete, with_biases, tokenizer.vocab_size, HUGGING_FACE)
    run = Config(model=config)
    run.batch.max_length = _PLACES
    options, weights = to_hugging_face(weights, run, tokenizer)
    for name in ("architectures", "model_type", "torch_dtype", "is_encoder_decoder"):  # what a class knows of itself
        del options[name]
    options["forced_eos_token_id"] = None
    model = (M2M100ForConditionalGeneration if pre else MarianMTModel)(
        (M2M100Config if pre else MarianConfig)(**options)
    ).eval()
    if pre:
        weights.pop("final_logits_bias")  # zeros
    with torch.no_grad():
        _set_positions(model, config, first=tokenizer.pad_id + 1 if pre else 0)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = config.norm_epsilon
    rest = {name: torch.from_numpy(weight) for name, weight in weights.items() if "embed_positions" not in name}
    missing, unexpected = model.load_state_dict(rest, strict=False)
    assert not unexpected, f"weights without a place: {unexpected}"
    untold = [name for name in missing if not any(part in name for part in ("embed_positions", "embed_tokens", "lm_head"))]
    assert not untold, f"places without a weight: {untold}"
    return model


def _set_positions(model: Any, config: ModelConfig, first: int) -> None:
    """M2M100 has its table as a buffer that is in no file, with `first` rows before that of position 0."""
    import torch

    table = torch.from_numpy(np.array(sinusoids(np.arange(_PLACES), config.width, config.positions)))
    for stack in (model.model.encoder, model.model.decoder):
        places = stack.embed_positions
        rows = places.weights if hasattr(places, "weights") else places.weight
        rows[first : first + _PLACES] = table


def _special_ids(translator: Translator) -> set[int]:
    tokenizer = translator.tokenizer
    return {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.decoder_start_id}
