"""A trained Transformer as a CTranslate2 model (https://github.com/OpenNMT/CTranslate2): C++, no JAX, 8-bit weights if wanted.

    transformer-jax export runs/demo demo_ct2 --format=ctranslate2 --quantization=int8

writes a folder that CTranslate2 loads, with the tokenizer in it, and the settings of the search here (`transformer_jax.json`),
which `transformer-jax import` takes over (`ctranslate2_reader.py`):

    translator = ctranslate2.Translator("demo_ct2")
    tokenizer = sentencepiece.SentencePieceProcessor("demo_ct2/tokenizer/sentencepiece.model")
    lines = list(map(transformer_jax.tokenization.normalization.normalize, lines))  # where tokenizer.json has "normalization"
    results = translator.translate_batch(tokenizer.encode(lines, out_type=str), beam_size=4)
    texts = [tokenizer.decode(result.hypotheses[0]) for result in results]

(`source.spm` and `target.spm` instead, where the run was made of a Marian model: see `interop/marian.py`.)

CTranslate2 adds EOS to the source itself. The model is the same function. The search is CTranslate2's, which differs from that
of transformer_jax:

* The length penalty divides by |y|^a, in transformer_jax by ((5 + |y|) / 6)^a, or by |y|^a with
  `decode.length_normalization=power`, as imported models have it. The search ends when it has found `patience` times as many
  translations as the beam is wide, in transformer_jax when no other can win. With `length_penalty=0` and patience 1, which is
  CTranslate2's default, the two find the same translations; with another penalty, `power` here and `patience=2` there.
* The length limit is one number for all lines (`max_decoding_length`, 256), at which a translation is cut. In transformer_jax
  it follows from the source's length, and EOS is forced there. CTranslate2 also cuts the source, at `max_input_length` (1024),
  and writes no empty translation, except with `min_decoding_length=0`.
* `disable_unk=True, suppress_sequences=[["<s>"], ["<pad>"]]` suppress the ids that transformer_jax never generates. A trained
  model gives them little probability. CTranslate2 removes them before the softmax, transformer_jax after it, which changes the
  probabilities a little.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import Config, ModelConfig
from transformer_jax.config.keys import as_dict
from transformer_jax.errors import UserError, pip_install
from transformer_jax.interop.parameters import flat_parameters
from transformer_jax.models.layers import sinusoids
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run
from transformer_jax.storage.output_folders import require_possible_output, written_whole
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["ACTIVATIONS", "QUANTIZATIONS", "SETTINGS", "export", "weights_for", "write_model"]

# Each value of `model.activation` by its name in CTranslate2.
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELUTanh",
    "gelu_exact": "GELU",
    "gelu_sigmoid": "GELUSigmoid",
    "silu": "SWISH",
    "swiglu": "SWISH",
}
SETTINGS = "transformer_jax.json"  # the file of what CTranslate2 has no place for
QUANTIZATIONS = ("float32", "float16", "int8")  # of the weights, as CTranslate2 names them
_POSITIONS = 2048  # rows of the table of sinusoids, at least: CTranslate2 reads 1024 source tokens by default
_OLDEST = (4, 8)  # the oldest CTranslate2 that was tested


class Rule(NamedTuple):
    """Which parameters a weight of CTranslate2 is converted from."""

    weight: str
    parameters: tuple[str, ...]
    convert: Callable[..., np.ndarray]


def export(workdir: str, output: str, checkpoint: str = "best", quantization: str = "float32") -> str:
    """Writes the parameters of a run folder as a CTranslate2 model to `output`, a folder that is new or empty.

    `checkpoint` is latest, best, a step, or `average:N`; `quantization`, one of `QUANTIZATIONS`, is the type of the weights on
    disk and, if the machine supports it, in computations. Returns in words which parameters they are. Raises UserError for a
    model that CTranslate2 cannot represent, if CTranslate2 is not installed, and if `output` cannot be written.
    """
    if quantization not in QUANTIZATIONS:
        raise UserError(f"--quantization={quantization} should be one of {', '.join(QUANTIZATIONS)}")
    run = Run(workdir)
    tokenizer = run.tokenizer()
    _require_possible(run.config.model, tokenizer, output)
    model = build_model(run.config.model, tokenizer.vocab_size)
    with run.checkpoints() as checkpoints:
        params, name = checkpoints.parameters(CheckpointName.parse(checkpoint), abstract_parameters(model), tokenizer)
    write_model(params, tokenizer, run.config, output, quantization)
    return name


def write_model(params: Any, tokenizer: Tokenizer, config: Config, output: str | Path, quantization: str = "float32") -> None:
    """Does what `export` does for parameters in memory: a tree of arrays of the model that `config.model` describes."""
    _require_possible(config.model, tokenizer, output)
    decode, longest = config.decode, config.batch.max_length
    positions = max(_POSITIONS, int(decode.max_length_ratio * longest) + decode.max_length_extra)
    spec = _empty_spec(config.model)
    for name, weight in weights_for(params, config.model, tokenizer.vocab_size, positions).items():
        _set(spec, name, weight)
    spec.register_source_vocabulary(tokenizer.source_pieces(range(tokenizer.source_vocab_size)))
    spec.register_target_vocabulary(tokenizer.pieces(range(tokenizer.vocab_size)))
    names = "bos_token", "eos_token", "unk_token", "decoder_start_token"
    ids = tokenizer.bos_id, tokenizer.eos_id, tokenizer.unknown_id, tokenizer.decoder_start_id
    for name, piece in zip(names, tokenizer.pieces(ids), strict=True):
        setattr(spec.config, name, piece)
    spec.config.add_source_bos, spec.config.add_source_eos = tokenizer.source_bos, tokenizer.source_eos
    spec.config.layer_norm_epsilon = config.model.norm_epsilon
    spec.validate()
    spec.optimize(quantization=quantization)
    with written_whole(output) as unfinished:
        tokenizer.copy_to(unfinished / "tokenizer")
        spec.save(str(unfinished))
        text = json.dumps(_settings(config), indent=2, ensure_ascii=False) + "\n"
        (unfinished / SETTINGS).write_text(text, encoding="utf-8")


def _settings(config: Config) -> dict[str, Any]:
    """What CTranslate2 has no place for, and an import takes over."""
    languages = {name: getattr(config.data, name) for name in ("source_language", "target_language")}
    return {"data": languages, "batch": {"max_length": config.batch.max_length}, "decode": as_dict(config)["decode"]}


def weights_for(params: Any, config: ModelConfig, vocab_size: int, positions: int) -> dict[str, np.ndarray]:
    """The weights of a Transformer under the names, and in the shapes, of CTranslate2: NumPy alone, copies, float32.

    `positions` is the number of rows of the table of sinusoids, which is written because CTranslate2's own begins at position 1
    and not at `model.first_position`.

        target_embedding/table                       [V, D]        decoder/embeddings/weight                      [V, D]
        encoder_0/attention/query_key_value/kernel   [D, 3, H, K]  encoder/layer_0/self_attention/linear_0/weight [3HK, D]
        decoder_0/cross_attention/key_value/kernel   [D, 2, H, K]  decoder/layer_0/attention/linear_1/weight      [2HK, D]
        decoder_0/feed_forward/inner/kernel          [D, F]        decoder/layer_0/ffn/linear_0/weight            [F, D]

    CTranslate2 has one head width K for queries, keys and values: narrower heads are padded with zeros, which changes no
    product. Raises UserError naming every parameter that is missing, is not the model's, or has another shape than the model's.
    """
    flat = flat_parameters(params, config, vocab_size)
    weights, used = {}, set()
    for weight, names, convert in _rules(config):
        weights[weight] = np.array(convert(*(np.asarray(flat[name], np.float32) for name in names)), np.float32, order="C")
        used.update(names)
    assert used == flat.keys(), f"parameters without a rule: {flat.keys() - used}"
    if config.positions.startswith("sinusoidal"):
        table = sinusoids(config.first_position + jnp.arange(positions), config.width, config.positions)
        for side in ("encoder", "decoder"):
            weights[f"{side}/position_encodings/encodings"] = np.array(table, np.float32)
    return weights


def _rules(config: ModelConfig) -> Iterator[Rule]:
    """The rules of all weights except the table of sinusoids."""
    target = "target_embedding/table"
    source = target if config.tied_embeddings == "all" else "source_embedding/table"
    output = "output_embedding/table" if config.tied_embeddings == "none" else target
    yield Rule("encoder/embeddings_0/weight", (source,), _same)
    yield Rule("decoder/embeddings/weight", (target,), _same)
    yield Rule("decoder/projection/weight", (output,), _same)
    if config.output_bias:
        yield Rule("decoder/projection/bias", ("bias",), _same)
    if config.positions == "learned":
        yield Rule("encoder/position_encodings/encodings", ("source_positions",), _same)
        yield Rule("decoder/position_encodings/encodings", ("target_positions",), _same)
    for side, layers in (("encoder", config.num_layers), ("decoder", config.decoder_depth)):
        if config.norm == "pre":
            yield from _norm_rules(f"{side}_norm", side)
        for i in range(layers):
            parameter, weight = f"{side}_{i}", f"{side}/layer_{i}"
            yield from _attention_rules(f"{parameter}/attention", f"{weight}/self_attention", config, cross=False)
            if side == "decoder":
                yield from _attention_rules(f"{parameter}/cross_attention", f"{weight}/attention", config, cross=True)
            yield from _feed_forward_rules(f"{parameter}/feed_forward", f"{weight}/ffn", config)


def _norm_rules(parameter: str, weight: str) -> Iterator[Rule]:
    yield Rule(f"{weight}/layer_norm/gamma", (f"{parameter}/scale",), _same)
    yield Rule(f"{weight}/layer_norm/beta", (f"{parameter}/bias",), _same)


def _attention_rules(parameter: str, weight: str, config: ModelConfig, *, cross: bool) -> Iterator[Rule]:
    key_width, value_width, width = _head_widths(config)
    fused = key_width == value_width
    columns = partial(_head_columns, heads=config.heads, width=width)
    if cross:
        keys_values = ("key_value",) if fused else ("key", "value")
        projections = [("query",), keys_values]
    else:
        projections = [("query_key_value",) if fused else ("query_key", "value")]
    for number, names in enumerate(projections):
        yield Rule(f"{weight}/linear_{number}/weight", tuple(f"{parameter}/{name}/kernel" for name in names), columns)
        if config.attention_bias:
            biases = tuple(f"{parameter}/{name}/bias" for name in names)
            yield Rule(f"{weight}/linear_{number}/bias", biases, partial(_head_biases, heads=config.heads, width=width))
    rows, last = partial(_head_rows, width=width), f"{weight}/linear_{len(projections)}"
    yield Rule(f"{last}/weight", (f"{parameter}/output/kernel",), rows)
    if config.attention_bias:
        yield Rule(f"{last}/bias", (f"{parameter}/output/bias",), _same)
    yield from _norm_rules(f"{parameter}_residual/norm", weight)


def _feed_forward_rules(parameter: str, weight: str, config: ModelConfig) -> Iterator[Rule]:
    if config.activation == "swiglu":
        inner, hidden = (f"{parameter}/inner/kernel",), config.feed_forward_width
        yield Rule(f"{weight}/linear_0/weight", inner, lambda kernel: kernel[:, :hidden].T)
        yield Rule(f"{weight}/linear_0_noact/weight", inner, lambda kernel: kernel[:, hidden:].T)
        yield Rule(f"{weight}/linear_1/weight", (f"{parameter}/outer/kernel",), np.transpose)
    else:
        for number, name in enumerate(("inner", "outer")):
            yield Rule(f"{weight}/linear_{number}/weight", (f"{parameter}/{name}/kernel",), np.transpose)
            yield Rule(f"{weight}/linear_{number}/bias", (f"{parameter}/{name}/bias",), _same)
    yield from _norm_rules(f"{parameter}_residual/norm", weight)


def _same(weight: np.ndarray) -> np.ndarray:
    return weight


def _head_columns(*kernels: np.ndarray, heads: int, width: int) -> np.ndarray:
    """[D, H, K], [D, n, H, K] ... -> [(1 + n + ...) * H * width, D]: each head's K columns, padded to `width`."""
    split = [kernel.reshape(len(kernel), -1, heads, kernel.shape[-1]) for kernel in kernels]
    padded = [np.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, width - kernel.shape[-1]))) for kernel in split]
    return np.concatenate(padded, axis=1).reshape(len(kernels[0]), -1).T


def _head_biases(*biases: np.ndarray, heads: int, width: int) -> np.ndarray:
    """[H, K], [n, H, K] ... -> [(1 + n + ...) * H * width]"""
    return _head_columns(*(bias[None] for bias in biases), heads=heads, width=width).reshape(-1)


def _head_rows(kernel: np.ndarray, *, width: int) -> np.ndarray:
    """[H, K, D] -> [D, H * width]"""
    padded = np.pad(kernel, ((0, 0), (0, width - kernel.shape[1]), (0, 0)))
    return padded.reshape(-1, kernel.shape[-1]).T


def _head_widths(config: ModelConfig) -> tuple[int, int, int]:
    """The head width of keys, that of values, and the larger of the two."""
    key_width, value_width = config.key_head_width, config.value_head_width
    return key_width, value_width, max(key_width, value_width)


def _empty_spec(config: ModelConfig) -> Any:
    """A `ctranslate2.specs.TransformerSpec` of this architecture, without weights."""
    from ctranslate2.specs import TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec
    from ctranslate2.specs.common_spec import Activation

    key_width, _, width = _head_widths(config)
    shared = {
        "num_heads": config.heads,
        "head_dim": width,
        "pre_norm": config.norm == "pre",
        "activation": Activation[ACTIVATIONS[config.activation]],
        "ffn_glu": config.activation == "swiglu",
        "rotary_dim": key_width if config.positions == "rotary" else None,
        "rotary_interleave": False,
    }
    spec = TransformerSpec(
        TransformerEncoderSpec(config.num_layers, **shared),
        TransformerDecoderSpec(config.decoder_depth, **shared),
    )
    spec.decoder.start_from_zero_embedding = config.zero_start
    if not config.scale_embedding:
        spec.encoder.scale_embeddings = spec.decoder.scale_embeddings = np.float32(1)
    if width != key_width:
        attentions = [layer.self_attention for layer in (*spec.encoder.layer, *spec.decoder.layer)]
        for attention in (*attentions, *(layer.attention for layer in spec.decoder.layer)):
            attention.queries_scale = np.float32(key_width**-0.5)
    return spec


def _set(spec: Any, name: str, weight: np.ndarray) -> None:
    """spec.encoder.layer[0].ffn.linear_0.weight = weight, for the name encoder/layer_0/ffn/linear_0/weight."""
    *parts, last = name.split("/")
    for part in parts:
        if hasattr(spec, part):
            spec = getattr(spec, part)
        else:  # an element of a list
            name, _, number = part.rpartition("_")
            spec = getattr(spec, name)[int(number)]
    setattr(spec, last, weight)


def _require_possible(config: ModelConfig, tokenizer: Tokenizer, output: str | Path) -> None:
    if config.family != "transformer":
        raise UserError(f"model.family={config.family}: CTranslate2 has no such model; expected a Transformer")
    if config.autoregression != "attention":
        raise UserError(f"model.autoregression={config.autoregression}: CTranslate2 has no such decoder; expected attention")
    if tokenizer.source_vocab_size != tokenizer.vocab_size and not tokenizer.has_source_vocabulary:
        raise UserError(
            f"{tokenizer.folder}: the source's model has {tokenizer.source_vocab_size} pieces, the target's "
            f"{tokenizer.vocab_size}; CTranslate2 expects a piece for each row of the embedding tables"
        )
    require_possible_output(output)
    try:
        import ctranslate2
    except ImportError:
        raise UserError(f"CTranslate2 is not installed; {pip_install('transformer_jax[ctranslate2]')}") from None
    if tuple(map(int, ctranslate2.__version__.split(".")[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"CTranslate2 {ctranslate2.__version__} is too old; {pip_install(f'ctranslate2>={oldest}')}")


if __name__ == "__main__":
    from transformer_jax.cli.ctranslate2 import run
    from transformer_jax.cli.program import main

    main(run)
