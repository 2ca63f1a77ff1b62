"""What defines a run: typed dataclasses, validated as a whole, to and from JSON."""

from transformer_jax.config.json_form import from_json, to_json
from transformer_jax.config.keys import full_name, is_config_class, override, unknown_key
from transformer_jax.config.resuming import continued, differences, remedy, schedule_ends_with_steps
from transformer_jax.config.search_options import DecodeConfig, SearchOptions
from transformer_jax.config.sections import (
    BatchConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)
from transformer_jax.config.text_sources import TextSource
from transformer_jax.config.validation import validate

__all__ = [
    "BatchConfig",
    "Config",
    "DataConfig",
    "DecodeConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "SearchOptions",
    "TextSource",
    "TokenizerConfig",
    "TrainConfig",
    "continued",
    "differences",
    "from_json",
    "full_name",
    "is_config_class",
    "override",
    "remedy",
    "schedule_ends_with_steps",
    "to_json",
    "unknown_key",
    "validate",
]
