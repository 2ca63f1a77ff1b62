"""A model with all that belongs to it, as it comes from a run folder, from others together, or from Python."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config import Config, SearchOptions
from transformer_jax.data.source_words import SourceWords
from transformer_jax.errors import UserError
from transformer_jax.inference.arguments import checked_search
from transformer_jax.inference.batched_search import Searcher
from transformer_jax.inference.forced_decoding import ForcedDecoder
from transformer_jax.inference.line_pieces import PieceMaker
from transformer_jax.inference.protected_spans import ProtectedPiece, Protection, protection_of
from transformer_jax.inference.spelling import Speller
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translation import on_one_line
from transformer_jax.inference.word_aligner import aligning_layers, require_layer
from transformer_jax.models.ensemble import Ensemble
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.calibration import Calibration
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.run_folder import Run
from transformer_jax.tokenization.text_arguments import check_options
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["OPTIONS", "LoadedModel"]

# The fields of `SearchOptions` that a call may set instead of the config.
OPTIONS = [field.name for field in dataclasses.fields(SearchOptions) if field.name != "alignment_layer"]


class LoadedModel:
    """A model, its parameters and its tokenizer, its search and its forced decoding. `model` is under the contract of
    `models/seq2seq.py`.

    Attributes:
        model: the linen module, or an `Ensemble`
        params: its parameters; None until `with_params` or `with_checkpoint` gives some
        tokenizer: of source and target
        config: the `DecodeConfig` that the options of a call may differ from
        alignment_layer: whose attention aligns words, from 1; 0: not known yet, the first pairs that `align` gets will choose
        usual_length: tokens that sentences seldom exceed in the training text (`TrainProgress`); 0: unknown
        calibration: what makes translations' `confidence`, in a run that has it; None: they have none
        origin: the steps of the checkpoint, and raw or ema; of parameters from elsewhere none
    """

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        tokenizer: Tokenizer,
        config: Config,
        alignment_layer: int = 0,
        usual_length: int = 0,
    ):
        self.model = model
        self.params = params
        self.tokenizer = tokenizer
        self.config = config.decode
        self.alignment_layer = config.decode.alignment_layer or alignment_layer
        self.usual_length = usual_length
        self.calibration: Calibration | None = None
        self.origin: tuple[tuple[int, ...], str] = (), ""
        self._stored: Calibration | None = None  # the run's, whatever the parameters are
        self._config = config
        self._find_speller: Callable[[], Speller | None] = lambda: None
        self._layers = aligning_layers(config.model)
        # A table of learned positions has no row for others.
        learned = config.model.positions == "learned"
        self._max_positions = config.model.max_positions if learned else np.iinfo(np.int32).max
        self._searcher = Searcher(model, tokenizer, self._max_positions)
        self._pooled: tuple[Searcher, ...] = ()  # of an ensemble's models, whose candidates `mbr` takes together
        self._forced = ForcedDecoder(model, tokenizer, self._max_positions)

    @classmethod
    def load(cls, workdir: str | Path, checkpoint: str = "best") -> Self:
        """The translator of a run folder. `checkpoint`: latest, best, a step, or `average:N`; where there are moving averages,
        these, or with `:raw` after it the parameters themselves. Raises UserError where one is not there, or damaged."""
        name = CheckpointName.parse(checkpoint)
        translator = cls.of_run(run := Run(workdir))
        with run.checkpoints() as checkpoints:
            return translator.with_checkpoint(checkpoints, name)[0]

    @classmethod
    def of_run(cls, run: Run, calibrated: bool = True, compute_dtype: str | None = None) -> Self:
        """The translator of a run, without parameters, that computes in `compute_dtype` (None: as it was trained). Raises
        UserError where the tokenizer is not there, or damaged, or `confidence.json`, which is not read if not `calibrated`."""
        tokenizer, config = run.tokenizer(), run.config
        if compute_dtype:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype=compute_dtype))
        translator = cls(build_model(config.model, tokenizer.vocab_size), None, tokenizer, config)
        translator._stored = Calibration.read(run.workdir) if calibrated else None
        translator.spell_by(run.source_words)
        return translator

    def spell_by(self, words: Callable[[], SourceWords | None]) -> None:
        """Has it correct the spelling of what it reads, where a search asks for that, by the words that this returns; it is
        called when they are needed, and once."""

        @functools.cache
        def find() -> Speller | None:
            found = words()
            return found and Speller(found, self._config.data.source_language)

        self._find_speller = find

    def with_params(self, params: Any) -> Self:
        """The translator with other parameters. Both share their compiled programs."""
        other = copy.copy(self)
        other.params = params
        other.calibration, other.origin = None, ((), "")
        return other

    def with_checkpoint(self, checkpoints: CheckpointReader, name: CheckpointName) -> tuple[Self, str]:
        """The translator with the parameters of a checkpoint of its run, and in words which these are. Raises UserError as
        `CheckpointReader.parameters` does."""
        params, described = checkpoints.parameters(name, abstract_parameters(self.model), self.tokenizer)
        progress = checkpoints.progress(checkpoints.resolve(name)[-1])
        other = self.with_params(jax.device_put(params))
        other.usual_length = progress.usual_length
        other.alignment_layer = self.config.alignment_layer or progress.alignment_layer
        other.origin = tuple(checkpoints.resolve(name)), checkpoints.weights(name)
        other.calibration = self._stored
        return other, described

    def together_with(self, others: Sequence[Self], weights: Sequence[float] | None = None) -> Self:
        """A translator that averages the probabilities of all (`models.ensemble`), with the search, the alignment layer and the
        usual length of this one. `weights`: of this one and of each other, if they differ. Lines are cut into pieces that every
        model can read: of the smallest `batch.max_length`, for the smallest table of learned positions.

        With `mbr` each model finds that many candidates by itself, and all are taken together, by the weights. Raises UserError
        if a vocabulary is not that of this one, or for weights that cannot be."""
        others = [others] if isinstance(others, LoadedModel) else list(others)
        for other in others:
            if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
                raise UserError("models translate together only with the same tokenizer: train all on the same text")
        members = self, *others
        models, params = zip(*((member.model, member.params) for member in members), strict=True)
        shortest = min(members, key=lambda member: member._max_positions)
        longest = min(member._config.batch.max_length for member in members)
        batch = dataclasses.replace(self._config.batch, max_length=longest)
        config = dataclasses.replace(self._config, decode=self.config, model=shortest._config.model, batch=batch)
        model = Ensemble(models, weights)
        ensemble = type(self)(model, params, self.tokenizer, config, self.alignment_layer, self.usual_length)
        ensemble._layers, ensemble._find_speller = self._layers, self._find_speller
        # Checkpoints of one run are one model, and share its compiled programs.
        searchers = [Searcher(each, self.tokenizer, ensemble._max_positions) for each in models]
        ensemble._pooled = tuple(searchers[models.index(each)] for each in models)
        return ensemble

    @property
    def aligns(self) -> bool:
        """Has the model attention to the source, by which words are aligned?"""
        return self._layers > 0

    def search_config(self, **options: Any) -> SearchOptions:
        """The config's options, but for those that are given and not None. Raises UserError for impossible values, TypeError
        for unknown options."""
        check_options(options, OPTIONS, "search_config")
        search = checked_search(self.config, {name: value for name, value in options.items() if value is not None})
        if search.shortlist:
            self._require_shortlist()
        return search

    def speller(self, search: SearchOptions) -> Speller | None:
        """What corrects the spelling of sources; None for a search that keeps it. Raises UserError where it is to be corrected
        and the words are not known, or damaged."""
        if search.spelling == "keep":
            return None
        if (speller := self._find_speller()) is None:
            raise UserError(
                "spelling=correct: it is not known which words the training text has; `transformer-jax spelling --workdir=RUN` "
                "finds out for a run, in Python Translator.spell_by tells it; or leave spelling at keep"
            )
        return speller

    def protection(self, protect: str | Sequence[str] | Protection | None = None, numbers: str = "keep") -> Protection | None:
        """What `Translator.translate` protects if it is asked so, which may be read once for many calls; None for nothing.
        Raises UserError for patterns that cannot be read, and for languages of which it is not known how they write numbers."""
        return protection_of(protect, numbers, self._config)

    def protected_pieces(
        self, lines: Sequence[str], protection: Protection | None, **options: Any
    ) -> list[list[ProtectedPiece]]:
        """What of each line is translated by itself, with its spans, which it has if there is a protection. Raises UserError as
        `Translator.translate` does."""
        search = self.search_config(**options)
        maker = self._piece_maker(search)
        if protection:
            return protection.pieces(protection.masked(lines), maker, search)
        return [[ProtectedPiece(piece, piece.span) for piece in of_line] for of_line in maker.pieces(lines, search)]

    def align_with(self, layer: int | None) -> None:
        """Checks, before anything is translated, that `align` can be asked, and has it use `layer`, from 1, from then on (None:
        `alignment_layer` stays as it is). Raises UserError for a model without attention to the source, or without such a
        layer."""
        explicit, layer = layer is not None, self.alignment_layer if layer is None else layer
        require_layer(layer, self._layers, explicit)
        self.alignment_layer = layer

    def _require_shortlist(self) -> None:
        if self.tokenizer.placeholder_ids:
            raise UserError("shortlist is not for models with placeholders; leave it at 0")
        if self.tokenizer.shortlist is None:
            raise UserError(
                f"{self.tokenizer.folder}: has no lexical table; transformer-jax shortlist makes it; or leave shortlist at 0"
            )

    def _piece_maker(self, search: SearchOptions, terms: Terminology | None = None) -> PieceMaker:
        speller = self.speller(search)
        if speller and terms:
            speller = speller.knowing(terms.words)
        return PieceMaker(self.tokenizer, self._config, self.usual_length, self._max_positions, speller)

    def _decode(self, rows: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        return [on_one_line(text) for text in self.tokenizer.decode(rows)]

    def _target_rows(self, targets: Sequence[str | np.ndarray]) -> list[np.ndarray]:
        return [self.tokenizer.encode_target([target])[0] if isinstance(target, str) else target for target in targets]
