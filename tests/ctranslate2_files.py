"""Makes CTranslate2's files for tests, by the format's description and without their package."""

import json
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from transformer_jax.config import ModelConfig
from transformer_jax.interop.ctranslate2 import weights_for

TYPES = ["float32", "int8", "int16", "int32", "float16", "bfloat16"]
ACTIVATIONS = {"relu": 0, "gelu": 1, "silu": 2, "swiglu": 2, "gelu_exact": 3, "gelu_sigmoid": 4}


def string(text: str | bytes) -> bytes:
    content = (text.encode() if isinstance(text, str) else text) + b"\0"
    return struct.pack("<H", len(content)) + content


def array(name: str, value: np.ndarray, version: int = 6) -> bytes:
    value = np.asarray(value)
    kind = [TYPES.index(value.dtype.name), value.nbytes] if version >= 4 else [value.itemsize, value.size]
    shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return string(name) + shape + struct.pack("<BI", *kind) + value.tobytes()


def model_bin(variables, aliases=(), version=6, name="TransformerSpec", revision=7) -> bytes:
    content = struct.pack("<I", version) + string(name) + struct.pack("<II", revision, len(variables))
    content += b"".join(array(each, value, version) for each, value in variables.items())
    if version >= 3:
        content += struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in dict(aliases).items())
    return content


def attributes_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """The attributes that CTranslate2's converters write for such a model."""
    found = {}
    key_width, width = config.key_head_width, max(config.key_head_width, config.value_head_width)
    for side, layers in (("encoder", config.num_layers), ("decoder", config.decoder_depth)):
        found[f"{side}/num_heads"] = np.int16(config.heads)
        found[f"{side}/pre_norm"] = np.int8(config.norm == "pre")
        found[f"{side}/activation"] = np.int8(ACTIVATIONS[config.activation])
        found[f"{side}/scale_embeddings"] = np.int8(1) if config.scale_embedding else np.float32(1)
        for layer in range(layers):
            for kind in ("self_attention", "attention")[: 1 + (side == "decoder")]:
                scope = f"{side}/layer_{layer}/{kind}"
                found[f"{scope}/head_dim"] = np.int32(width)
                if width != key_width:
                    found[f"{scope}/queries_scale"] = np.float32(key_width**-0.5)
                if config.positions == "rotary" and kind == "self_attention":
                    found[f"{scope}/rotary_dim"] = np.int32(key_width)
                    found[f"{scope}/rotary_interleave"] = np.int8(0)
    return found | {"decoder/start_from_zero_embedding": np.int8(config.zero_start)}


def variables_of(config: ModelConfig, params, vocab_size: int, positions: int = 64) -> dict[str, np.ndarray]:
    return dict(sorted((attributes_of(config) | weights_for(params, config, vocab_size, positions)).items()))


def quantized(weight: np.ndarray, kind: str) -> dict[str, np.ndarray]:
    """{"": the numbers, "_scale": their scale}, as CTranslate2 quantises."""
    if kind == "int8":
        most = np.abs(weight).max(axis=1)
        scale = (127 / np.where(most == 0, 127, most)).astype(np.float32)
        return {"": np.rint(weight * scale[:, None]).astype(np.int8), "_scale": scale}
    if kind == "int16":
        scale = np.float32(2**10 / np.abs(weight).max())
        return {"": np.rint(weight * scale).astype(np.int16), "_scale": scale}
    return {"": weight.astype(jnp.dtype(kind))}


def write_model(folder: Path, variables, vocabulary, sentencepiece: bytes, aliases=(), source=None, **options) -> Path:
    """A folder of a whole model; `source` is the source's own vocabulary, `options` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(model_bin(variables, aliases))
    given = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", decoder_start_token="<s>")
    given |= dict(add_source_bos=False, add_source_eos=False, layer_norm_epsilon=None, multi_query_attention=False)
    (folder / "config.json").write_text(json.dumps(given | options))
    lists = {"shared": vocabulary} if source is None else {"source": source, "target": vocabulary}
    for side, pieces in lists.items():
        (folder / f"{side}_vocabulary.json").write_text(json.dumps(pieces))
    (folder / "sentencepiece.model").write_bytes(sentencepiece)
    return folder
