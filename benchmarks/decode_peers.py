"""What `decode_speed.py` times: for each system a function that loads a run folder, and gives those that translate.

Every `translate(lines, beam)` goes from text to text and gives, for each line, the translation and its number of tokens, EOS
not counted. Batches are sorted by length everywhere.
"""

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.ctranslate2 import export, weights_for
from transformer_jax.run import Run
from transformer_jax.search import positions_at_once
from transformer_jax.translator import Translator, load_translator

_PLACES = 1024  # positions that Hugging Face's model has; it must be more than any line needs
Translate = Callable[[list[str], int], list[tuple[str, int]]]


class Settings(NamedTuple):
    workdir: str
    checkpoint: str
    threads: int
    length_penalty: float


def load_ours(settings: Settings) -> dict[str, Translate]:
    """`Translator.translate` with the config's own batches."""
    translator, _ = load_translator(Run(settings.workdir), settings.checkpoint)
    special = _special_ids(translator)

    def translate(lines: list[str], beam: int) -> list[tuple[str, int]]:
        found = translator.translate(lines, beam=beam, length_penalty=settings.length_penalty)
        return [(each.text, sum(token not in special for token in each.tokens)) for each in found]

    return {f"{positions_at_once(translator.config)} positions at once": translate}


def load_ctranslate2(settings: Settings) -> dict[str, Translate]:
    """float32, the threads as one worker or as many, batches of several sizes: each variant by its name."""
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        export(settings.workdir, f"{folder}/model", settings.checkpoint)
        workers = {(1, settings.threads), (settings.threads, 1)}
        models = {
            (inter, intra): ctranslate2.Translator(
                f"{folder}/model", compute_type="float32", inter_threads=inter, intra_threads=intra
            )
            for inter, intra in sorted(workers)
        }
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
        for tokens in (1024, 2048, 4096)
    }


def load_hugging_face(settings: Settings) -> dict[str, Translate]:
    """The same weights in `MarianMTModel` (post-norm) or `M2M100ForConditionalGeneration` (pre-norm), and their `generate`."""
    import torch

    torch.set_num_threads(settings.threads)
    translator, _ = load_translator(Run(settings.workdir), settings.checkpoint)
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
                    early_stopping=False if beam > 1 else None,  # it ends when no other can win, as ours does
                    length_penalty=settings.length_penalty if beam > 1 else None,
                    max_new_tokens=int(decode.max_length_ratio * longest) + decode.max_length_extra,
                )
                for i, row in zip(batch, generated.tolist(), strict=True):
                    found[i] = [token for token in row if token not in special]
            return list(zip(tokenizer.decode(found), map(len, found), strict=True))

        return translate

    return {f"batches of {tokens} tokens": variant(tokens) for tokens in (1024, 2048)}


def hugging_face_model(translator: Translator) -> Any:
    """Our parameters in the model of Hugging Face Transformers that computes the same. Raises UserError if there is none."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, MarianConfig, MarianMTModel

    config, tokenizer = translator.model.config, translator.tokenizer
    _require_same_architecture(config)
    pre = config.norm == "pre"
    layers = {"encoder": config.num_layers, "decoder": config.decoder_layers or config.num_layers}
    model = (M2M100ForConditionalGeneration if pre else MarianMTModel)(
        (M2M100Config if pre else MarianConfig)(
            vocab_size=tokenizer.vocab_size,
            d_model=config.width,
            encoder_layers=layers["encoder"],
            decoder_layers=layers["decoder"],
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.feed_forward_width,
            decoder_ffn_dim=config.feed_forward_width,
            activation_function={"gelu": "gelu_new"}.get(config.activation, config.activation),
            max_position_embeddings=_PLACES,
            scale_embedding=True,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=tokenizer.eos_id,
            decoder_start_token_id=tokenizer.decoder_start_id,
            forced_eos_token_id=None,
        )
    ).eval()
    # CTranslate2's names are nearer to Hugging Face's than ours are, and its matrices stand as torch's do.
    weights = weights_for(translator.params, config, tokenizer.vocab_size, _PLACES)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.bias is not None:
                module.bias.zero_()  # our attention has none
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-6
        used = _copy_weights(model, weights, layers, pre, first_place=tokenizer.pad_id + 1 if pre else 0)
    assert used == weights.keys(), f"weights without a place: {weights.keys() - used}"
    return model


def _copy_weights(model: Any, weights: dict[str, np.ndarray], layers: dict[str, int], pre: bool, first_place: int) -> set[str]:
    """Copies every weight to its place; the names of those that were."""
    import torch

    used: set[str] = set()

    def copy(target: Any, name: str, part: slice = slice(None)) -> None:
        value = torch.from_numpy(weights[name][part])
        assert target.shape == value.shape, f"{name}: {tuple(value.shape)} instead of {tuple(target.shape)}"
        target.copy_(value)
        used.add(name)

    def copy_norm(target: Any, name: str) -> None:
        copy(target.weight, f"{name}/layer_norm/gamma")
        copy(target.bias, f"{name}/layer_norm/beta")

    def copy_projections(attention: Any, name: str, projections: str) -> None:
        width = attention.embed_dim
        for i, projection in enumerate(projections):
            part = slice(i * width, (i + 1) * width)
            copy(getattr(attention, f"{projection}_proj").weight, f"{name}/weight", part)

    for name in ("encoder/embeddings_0/weight", "decoder/embeddings/weight", "decoder/projection/weight"):
        copy(model.model.shared.weight if name != "decoder/projection/weight" else model.lm_head.weight, name)
    if "decoder/projection/bias" in weights:
        copy(model.final_logits_bias[0], "decoder/projection/bias")
    for side, count in layers.items():
        stack = getattr(model.model, side)
        places = stack.embed_positions
        table = places.weights if pre else places.weight
        copy(table[first_place : first_place + _PLACES], f"{side}/position_encodings/encodings")
        if pre:
            copy_norm(stack.layer_norm, side)
        for i in range(count):
            layer, name = stack.layers[i], f"{side}/layer_{i}"
            copy_projections(layer.self_attn, f"{name}/self_attention/linear_0", "qkv")
            copy(layer.self_attn.out_proj.weight, f"{name}/self_attention/linear_1/weight")
            copy_norm(layer.self_attn_layer_norm, f"{name}/self_attention")
            if side == "decoder":
                copy_projections(layer.encoder_attn, f"{name}/attention/linear_0", "q")
                copy_projections(layer.encoder_attn, f"{name}/attention/linear_1", "kv")
                copy(layer.encoder_attn.out_proj.weight, f"{name}/attention/linear_2/weight")
                copy_norm(layer.encoder_attn_layer_norm, f"{name}/attention")
            for linear, number in ((layer.fc1, 0), (layer.fc2, 1)):
                copy(linear.weight, f"{name}/ffn/linear_{number}/weight")
                copy(linear.bias, f"{name}/ffn/linear_{number}/bias")
            copy_norm(layer.final_layer_norm, f"{name}/ffn")
    return used


def _require_same_architecture(config: ModelConfig) -> None:
    wrong = [
        f"model.{name}={getattr(config, name)}"
        for name, possible in {
            "positions": ("sinusoidal", "sinusoidal_concatenated"),
            "activation": ("relu", "gelu", "silu"),
            "tied_embeddings": ("all",),
            "output_bias": (False,) if config.norm == "pre" else (False, True),
            "key_width": (0, config.width // config.heads),
            "value_width": (0, config.width // config.heads),
        }.items()
        if getattr(config, name) not in possible
    ]
    if wrong:
        raise UserError(f"Hugging Face Transformers has no model with {', '.join(wrong)}")


def _special_ids(translator: Translator) -> set[int]:
    tokenizer = translator.tokenizer
    return {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.decoder_start_id}
