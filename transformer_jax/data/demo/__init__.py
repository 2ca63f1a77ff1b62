"""The built-in corpus: a small grammar of English and German that is drawn, not downloaded. `corpus.py` draws the sets."""

from transformer_jax.data.demo.corpus import (
    SPLITS,
    Example,
    Pronoun,
    generate,
    minimal_pairs,
    pronoun_accuracy,
    pronoun_baselines,
)

__all__ = ["SPLITS", "Example", "Pronoun", "generate", "minimal_pairs", "pronoun_accuracy", "pronoun_baselines"]
