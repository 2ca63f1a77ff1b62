"""English-German neural machine translation in JAX and Flax.

    import transformer_jax

    config = transformer_jax.recipe("demo")
    config.model.num_layers = 3
    transformer_jax.train(config, "runs/mine")
    translator = transformer_jax.Translator.load("runs/mine")
    translator.translate(["The dog sleeps."])[0].text

    use_compilation_cache()                   keeps compiled programs on disk, as the scripts do: the next process starts sooner
    score(hypotheses, references)             BLEU, chrF and TER with sacreBLEU's signatures
    evaluate(translator, source, references)  translates a test set and scores it
    read_pairs, Tokenizer, open_store         text to ids
    BatchStream, Batch, prefetch              ids to arrays of few shapes, shuffled, from any position on; `Batch.of` some pairs
    build_model, init_parameters              Transformer or LSTM; `models/seq2seq.py` has the contract
    EncoderLayer, DecoderLayer                the parts, with MultiHeadSelfAttention, MultiHeadCrossAttention, Embedding,
                                              sinusoids, causal_mask, segment_mask
    loss_sums                                 label-smoothed cross-entropy, as sums and counts
    attention_maps, alignment_error_rate      what attention looked at, and how well it aligns words
    beam_search, greedy_search, sample_search over any `step(token, index, cache)` function, of a `single_batch` of sentences;
                                              `search_inputs` makes both of a model and its parameters

`examples/` shows them in other code.

Whatever the user can mend is raised as UserError, also by `validate(config)`; a training that is asked to stop raises
ToBeContinued.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformer_jax.errors import ToBeContinued, UserError
from transformer_jax.version import __version__

if TYPE_CHECKING:
    from transformer_jax.config import (
        BatchConfig,
        Config,
        DataConfig,
        DecodeConfig,
        ModelConfig,
        OptimizerConfig,
        ParallelConfig,
        SearchOptions,
        TokenizerConfig,
        TrainConfig,
        validate,
    )
    from transformer_jax.data.batching import Batch
    from transformer_jax.data.corpus import Pairs, read_pairs
    from transformer_jax.data.prefetch import prefetch
    from transformer_jax.data.store import open_store
    from transformer_jax.data.stream import BatchStream, Position, StreamPosition
    from transformer_jax.decoding.beam import beam_search
    from transformer_jax.decoding.continuous_batching import at_once, single_batch
    from transformer_jax.decoding.greedy import greedy_search, sample_search
    from transformer_jax.evaluation.metrics import Score, score
    from transformer_jax.evaluation.report import Report, evaluate
    from transformer_jax.inference.alignment import alignment_error_rate
    from transformer_jax.inference.attention import Attention, AttentionMap, attention_maps
    from transformer_jax.inference.model_search import search_inputs
    from transformer_jax.inference.terminology import Terminology
    from transformer_jax.inference.translation import Translation
    from transformer_jax.inference.translator import Translator
    from transformer_jax.models.attention import (
        MultiHeadCrossAttention,
        MultiHeadSelfAttention,
        causal_mask,
        segment_mask,
    )
    from transformer_jax.models.layers import Embedding, sinusoids
    from transformer_jax.models.lstm import LSTM
    from transformer_jax.models.seq2seq import build_model, init_parameters
    from transformer_jax.models.transformer import DecoderLayer, EncoderLayer, Transformer
    from transformer_jax.recipes import recipe
    from transformer_jax.storage.cache_folders import use_compilation_cache
    from transformer_jax.tokenization.special_ids import SpecialIds
    from transformer_jax.tokenization.tokenizer import Tokenizer
    from transformer_jax.training.loop import train
    from transformer_jax.training.objective import loss_sums

__all__ = [
    "LSTM",
    "Attention",
    "AttentionMap",
    "Batch",
    "BatchConfig",
    "BatchStream",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "DecoderLayer",
    "Embedding",
    "EncoderLayer",
    "ModelConfig",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "OptimizerConfig",
    "Pairs",
    "ParallelConfig",
    "Position",
    "Report",
    "Score",
    "SearchOptions",
    "SpecialIds",
    "StreamPosition",
    "Terminology",
    "ToBeContinued",
    "Tokenizer",
    "TokenizerConfig",
    "TrainConfig",
    "Transformer",
    "Translation",
    "Translator",
    "UserError",
    "__version__",
    "alignment_error_rate",
    "at_once",
    "attention_maps",
    "beam_search",
    "build_model",
    "causal_mask",
    "evaluate",
    "greedy_search",
    "init_parameters",
    "loss_sums",
    "open_store",
    "prefetch",
    "read_pairs",
    "recipe",
    "sample_search",
    "score",
    "search_inputs",
    "segment_mask",
    "single_batch",
    "sinusoids",
    "train",
    "use_compilation_cache",
    "validate",
]

# Imported when first asked for (PEP 562): `transformer_jax.data` does without JAX, the scripts set the process up before JAX
# starts its threads, and --help or a mistyped flag should not wait for it.
_LATER = {
    "Attention": "inference.attention",
    "AttentionMap": "inference.attention",
    "Batch": "data.batching",
    "BatchConfig": "config",
    "BatchStream": "data.stream",
    "Config": "config",
    "DataConfig": "config",
    "DecodeConfig": "config",
    "DecoderLayer": "models.transformer",
    "Embedding": "models.layers",
    "EncoderLayer": "models.transformer",
    "LSTM": "models.lstm",
    "ModelConfig": "config",
    "MultiHeadCrossAttention": "models.attention",
    "MultiHeadSelfAttention": "models.attention",
    "OptimizerConfig": "config",
    "Pairs": "data.corpus",
    "ParallelConfig": "config",
    "Position": "data.stream",
    "Report": "evaluation.report",
    "Score": "evaluation.metrics",
    "SearchOptions": "config",
    "SpecialIds": "tokenization.special_ids",
    "StreamPosition": "data.stream",
    "Terminology": "inference.terminology",
    "Tokenizer": "tokenization.tokenizer",
    "TokenizerConfig": "config",
    "TrainConfig": "config",
    "Transformer": "models.transformer",
    "Translation": "inference.translation",
    "Translator": "inference.translator",
    "alignment_error_rate": "inference.alignment",
    "at_once": "decoding.continuous_batching",
    "attention_maps": "inference.attention",
    "beam_search": "decoding.beam",
    "build_model": "models.seq2seq",
    "causal_mask": "models.attention",
    "evaluate": "evaluation.report",
    "greedy_search": "decoding.greedy",
    "init_parameters": "models.seq2seq",
    "loss_sums": "training.objective",
    "open_store": "data.store",
    "prefetch": "data.prefetch",
    "read_pairs": "data.corpus",
    "recipe": "recipes",
    "sample_search": "decoding.greedy",
    "score": "evaluation.metrics",
    "search_inputs": "inference.model_search",
    "segment_mask": "models.attention",
    "single_batch": "decoding.continuous_batching",
    "sinusoids": "models.layers",
    "train": "training.loop",
    "use_compilation_cache": "storage.cache_folders",
    "validate": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER)
