"""What `evaluate.py` can be asked to do: its flags, their help, and which of them exclude each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.cli.parser import check_compute_dtype, check_ensemble, flag
from transformer_jax.data.noise import check_noises
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import refuse_same_files

__all__ = ["EvaluationJob"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """A call of `evaluate.py`: each field is the flag of its name, `search` holds fields of `SearchOptions` that were given.

    Raises UserError for flags that do not go together.
    """

    workdir: str = flag("the run folder that train.py made")
    test: Sequence[str] = flag("demo:test, PREFIX (.en and .de), FILE.tsv, sacrebleu:wmt14", nargs="+", metavar="SOURCE")
    checkpoint: Sequence[str] | None = flag(
        "one or more of latest, best, a step, average:N, each also with :raw (default: best)", None, nargs="+"
    )
    compute_dtype: str | None = flag(
        "of products: float32, bfloat16, auto (default: the run's); in bfloat16 the lines beside one may change it",
        None,
    )
    tokenize: str = flag("BLEU's: 13a, intl, char, or none for text that is tokenised already", "13a")
    lowercase: bool = flag("BLEU without regard to case", False)
    paper_bleu: bool = flag("BLEU also lower-cased, and on Moses tokens with compounds split (as in 2017)", False)
    rouge: bool = flag("ROUGE too, as without it where the run's train.metric is one", False)
    robustness: Sequence[str] | None = flag(
        "score each set also with these noises, all if none is named, and compare", None, nargs="*", metavar="NOISE"
    )
    bootstrap: int = flag("resamples for the confidence intervals, 0: none (default: 1000)", 1000, metavar="N")
    compare: str | None = flag(
        "test the difference from another run, or a file of its translations", None, metavar="RUN[:CHECKPOINT]"
    )
    output: str | None = flag(
        "write the translations here, those of several checkpoints and sets one after the other", None, metavar="FILE"
    )
    report: str | None = flag("write the scores and where they come from, as JSON or FILE.txt", None, metavar="FILE.json")
    html: str | None = flag("the same as a page for a browser, with every sentence", None, metavar="FILE.html")
    alignment_layer: int | None = flag("of the page, from 1 (default: as translate.py)", None, metavar="N")
    watch: bool = flag("score each checkpoint of a training as it comes, in a line", False)
    watch_minutes: float = flag("end after so long without a new one (default: 60)", 60.0, metavar="N")
    verbose: bool = flag("say how many programs were compiled, or read from the cache", False)
    ensemble: Sequence[str] = ()
    ensemble_weights: Sequence[float] = ()  # --workdir's first; (): alike
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_ensemble(self.ensemble, self.ensemble_weights)
        check_compute_dtype(self.compute_dtype)
        if self.watch and self.checkpoint:
            raise UserError("--watch scores every checkpoint; leave --checkpoint out")
        if not self.watch_minutes > 0:
            raise UserError(f"--watch_minutes={self.watch_minutes:g} should be above 0")
        if self.alignment_layer is not None and not self.html:
            raise UserError("--alignment_layer is for --html, whose page has word alignments; leave it out")
        check_noises(self.robustness or (), "--robustness")
        refuse_same_files(compare=self.compare, output=self.output, report=self.report, html=self.html)
