"""The config of a recipe that chooses by the number of pairs and the kind of device, such as `own_text`."""

import logging
from collections.abc import Sequence

from transformer_jax.cli.config_files import ConfigFile, with_overrides
from transformer_jax.config import Config, DataConfig, override
from transformer_jax.data.corpus import iter_pairs
from transformer_jax.data.sources import fetch, parse_sources
from transformer_jax.distributed import collectives
from transformer_jax.errors import UserError
from transformer_jax.platform import kind_of_device
from transformer_jax.runs.run_folder import Run, is_begun

__all__ = ["config_by_size", "count_pairs"]

log = logging.getLogger(__name__)


def config_by_size(file: ConfigFile, overrides: Sequence[str], workdir: str | None) -> Config:
    """The config that `file` chooses for the text that `overrides` name, with these overrides. A run that is begun already, in
    `workdir`, goes on with the config that it has. JAX's devices must have been found. Raises UserError where the text is not
    named or cannot be read."""
    if workdir and is_begun(workdir):
        log.info("%s goes on with the config of its config.json", workdir)
        return with_overrides(Run(workdir).config, overrides)
    text = Config()
    text.data.train = text.data.dev = ""
    for item in overrides:
        key, _, value = item.partition("=")
        override(text, key, value)
    missing = [f"--config.data.{key}=PREFIX" for key in ("train", "dev") if not getattr(text.data, key)]
    if missing:
        raise UserError(
            f"{' and '.join(missing)}: expected with this config, which is sized by its text; PREFIX stands for two files, "
            f"PREFIX.{text.data.source_language} and PREFIX.{text.data.target_language}"
        )
    config = file.config(overrides, pairs=count_pairs(text.data), device=kind_of_device())
    given = [item for item in overrides if not item.startswith("data.")]
    if given:
        log.info("set on the command line instead: %s", ", ".join(given))
    return config


def count_pairs(data: DataConfig) -> int:
    """The number of pairs in all sources of `data.train`, before they are cleaned, whatever their weights. The text is read
    once for that. Raises UserError as `read_pairs` does."""
    specs = [source.spec for source in parse_sources(data)]
    with collectives.first_before_others("data sets to count"):
        fetch(specs)
    return sum(1 for spec in specs for _ in iter_pairs(spec, data.source_language, data.target_language))
