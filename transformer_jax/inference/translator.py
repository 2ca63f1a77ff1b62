"""Text in, text out: the class that users translate, score and align with."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.config import Config, SearchOptions
from transformer_jax.decoding.length_penalty import score_of
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import Links, complete_links, renumbered_links
from transformer_jax.inference.arguments import checked_lines, checked_pairs, checked_search, checked_terminology
from transformer_jax.inference.attention import Attention, attention_of_pair
from transformer_jax.inference.batched_search import Searcher, positions_at_once
from transformer_jax.inference.confidence import with_confidence
from transformer_jax.inference.forced_decoding import ForcedDecoder
from transformer_jax.inference.line_pieces import Piece, PieceMaker, with_prefixes_and_phrases
from transformer_jax.inference.markup.translation import MarkupTranslation, TagNames, translate_texts
from transformer_jax.inference.open_search import OpenSearch, SharedSearcher, Ticket
from transformer_jax.inference.piece_search import Member, translate_pieces
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translation import Translation, empty_translation, join_pieces, on_one_line
from transformer_jax.inference.word_aligner import aligned, aligning_layers, links_of_layer, measured_layer, require_layer
from transformer_jax.models.ensemble import Ensemble
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.calibration import Calibration
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.checkpoint_reader import CheckpointReader
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.text_arguments import check_options
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["OPTIONS", "Translator", "load_others", "load_translator"]

# The fields of `SearchOptions` that a call may set instead of the config.
OPTIONS = [field.name for field in dataclasses.fields(SearchOptions) if field.name != "alignment_layer"]
# What `Translator.translate` takes beside these.
_ARGUMENTS = ["prefixes", "complete_words", "phrases", "phrase_ends", "terminology", "align", "between", "progress"]


class Translator:
    """A model, its parameters and its tokenizer, ready to translate. `model` is under the contract of `models/seq2seq.py`.

    Attributes:
        model: the linen module, or an `Ensemble`
        params: its parameters; None until `with_params` or `with_checkpoint` gives some
        tokenizer: of source and target
        config: the `DecodeConfig` that the options of a call may differ from
        alignment_layer: whose attention aligns words, from 1; 0: not known yet, the first pairs that `align` gets will choose
        usual_length: tokens that sentences seldom exceed in the training text (`TrainProgress`); 0: unknown
        calibration: what makes translations' `confidence`, in a run that has it; None: they have none
        origin: the steps of the checkpoint, and raw or ema; of parameters from elsewhere none

    >>> translator = Translator.load("runs/demo")                      # doctest: +SKIP
    >>> translator.translate(["The dog sleeps."])[0].text              # doctest: +SKIP
    'Der Hund schläft.'
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
        self._layers = aligning_layers(config.model)
        # A table of learned positions has no row for others.
        learned = config.model.positions == "learned"
        self._max_positions = config.model.max_positions if learned else np.iinfo(np.int32).max
        self._searcher = Searcher(model, tokenizer, self._max_positions)
        self._pooled: tuple[Searcher, ...] = ()  # of an ensemble's models, whose candidates `mbr` takes together
        self._forced = ForcedDecoder(model, tokenizer, self._max_positions)

    @classmethod
    def load(cls, workdir: str | Path, checkpoint: str = "best") -> "Translator":
        """The translator of a run folder. `checkpoint`: latest, best, a step, or `average:N`; where there are moving averages,
        these, or with `:raw` after it the parameters themselves. Raises UserError where one is not there, or damaged."""
        name = CheckpointName.parse(checkpoint)
        return load_translator(Run(workdir), name)[0]

    @classmethod
    def of_run(cls, run: Run, calibrated: bool = True, compute_dtype: str | None = None) -> "Translator":
        """The translator of a run, without parameters, that computes in `compute_dtype` (None: as it was trained). Raises
        UserError where the tokenizer is not there, or damaged, or `confidence.json`, which is not read if not `calibrated`."""
        tokenizer, config = run.tokenizer(), run.config
        if compute_dtype:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype=compute_dtype))
        translator = cls(build_model(config.model, tokenizer.vocab_size), None, tokenizer, config)
        translator._stored = Calibration.read(run.workdir) if calibrated else None
        return translator

    def with_params(self, params: Any) -> "Translator":
        """The translator with other parameters. Both share their compiled programs."""
        other = copy.copy(self)
        other.params = params
        other.calibration, other.origin = None, ((), "")
        return other

    def with_checkpoint(self, checkpoints: CheckpointReader, name: CheckpointName) -> tuple["Translator", str]:
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

    def together_with(self, others: Sequence["Translator"], weights: Sequence[float] | None = None) -> "Translator":
        """A translator that averages the probabilities of all (`models.ensemble`), with the search, the alignment layer and the
        usual length of this one. `weights`: of this one and of each other, if they differ. Lines are cut into pieces that every
        model can read: of the smallest `batch.max_length`, for the smallest table of learned positions.

        With `mbr` each model finds that many candidates by itself, and all are taken together, by the weights. Raises UserError
        if a vocabulary is not that of this one, or for weights that cannot be."""
        others = [others] if isinstance(others, Translator) else list(others)
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
        ensemble = Translator(model, params, self.tokenizer, config, self.alignment_layer, self.usual_length)
        ensemble._layers = self._layers
        # Checkpoints of one run are one model, and share its compiled programs.
        searchers = [Searcher(each, self.tokenizer, ensemble._max_positions) for each in models]
        ensemble._pooled = tuple(searchers[models.index(each)] for each in models)
        return ensemble

    @property
    def aligns(self) -> bool:
        """Has the model attention to the source, by which words are aligned?"""
        return self._layers > 0

    def open_search(self, **options: Any) -> OpenSearch:
        """A search for pieces that come from any thread at any time, with options as `translate` has them, whose `nbest` is the
        beam. Raises UserError for impossible values, and where tokens would be drawn."""
        search = self.search_config(**options)
        if search.temperature or search.mbr:
            raise UserError("--temperature and --mbr: a search that stays open draws no tokens; leave them at 0")
        search = dataclasses.replace(search, nbest=search.beam)
        longest = self._config.batch.max_length
        return OpenSearch(self.model, self.params, self.tokenizer, search, self._max_positions, longest)

    def sharing(self, search: OpenSearch, ticket: Ticket) -> "Translator":
        """The translator whose pieces go into an open search, on behalf of one request. Its translations are the same."""
        other = copy.copy(self)
        other._searcher, other._forced = SharedSearcher(self._searcher, search, ticket), search.forced
        return other

    def translate(
        self,
        lines: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        complete_words: bool = False,
        phrases: Sequence[Sequence[str]] | None = None,
        phrase_ends: str = "word",
        terminology: Mapping[str, str] | Terminology | None = None,
        align: bool | Literal["complete"] = False,
        between: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[Translation]:
        """One translation for each line, in the order of the lines; a blank line has the empty translation. `options` are
        fields of `SearchOptions`; None, as one that is left out, stands for the config's.

        Lines are translated in pieces as `split_sentences` says (`inference.sentences.split_line`). The white space between
        pieces comes back, with spaces for what might end a line. `prefixes`, one for each line, are what the translations begin
        with, in whole words; with `complete_words` the last word may be unfinished. `phrases`, any number for each line, and
        what `terminology` has for words of it, must occur in them, in whole words, or with `phrase_ends="anywhere"` perhaps
        followed by letters; one place may satisfy several. Lines whose translation lacks some are searched once more, with a
        wider beam (`Searcher.search`). Of a line in pieces, the first has prefix and `phrases`; terms stay with their words.
        With `align` each has its word alignment, as method `align` makes it, with "complete" one that leaves no word without a
        link (`alignment.complete_links`).

        Where there are several processes, all of them must come here, with the same lines, and each works through a part of the
        batches. `between` is called between two of them, and `progress` after each one, with the number of lines that are done
        (in proportion, where lines are in pieces) and of all lines.

        Raises UserError for impossible values, for a line that is not to be split and has more tokens than the model has
        positions, and where memory is too small; TypeError for a string where a list of strings belongs, and for an option that
        there is not.
        """
        lines, prefixes, phrases = checked_lines(lines, prefixes, phrases)
        terms = checked_terminology(terminology)
        check_options(options, OPTIONS + _ARGUMENTS, "translate")
        search = self.search_config(**options)
        of_lines = self.pieces(lines, search.split_sentences)
        rules = prefixes, complete_words, phrases, phrase_ends, terms
        pieces = with_prefixes_and_phrases(self.tokenizer, of_lines, *rules)
        report = progress and (lambda done: progress(done * len(lines) // len(pieces), len(lines)))
        parts = self._search(pieces, search, between, report)
        make_links = self._align_completely if align == "complete" else self._align
        rest = iter(aligned(make_links, pieces, parts) if align and pieces else parts)
        translations = [
            join_pieces(line, of_line, [next(rest) for _ in of_line], search, self.tokenizer)
            if of_line
            else empty_translation(bool(align))
            for line, of_line in zip(lines, of_lines, strict=True)
        ]
        return with_confidence(translations, self.calibration, self.origin, search, self.tokenizer)

    def pieces(self, lines: Sequence[str], split_sentences: str | None = None) -> list[list[Piece]]:
        """What of each line is translated by itself; nothing of a blank one. Raises UserError as `translate` does."""
        maker = PieceMaker(self.tokenizer, self._config, self.usual_length, self._max_positions)
        return maker.pieces(checked_lines(lines, None, None)[0], self.search_config(split_sentences=split_sentences))

    def translate_markup(
        self,
        texts: Sequence[str],
        markup: str = "html",
        *,
        ignore_tags: Sequence[str] = (),
        splitting_tags: Sequence[str] = (),
        non_splitting_tags: Sequence[str] = (),
        terminology: Mapping[str, str] | Terminology | None = None,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[MarkupTranslation]:
        """Texts with elements in them, `markup` html or xml, translated: pages and documents, or fragments of some.

        Elements such as paragraphs separate what is translated; those that belong to a sentence are put back around the words
        that theirs became, as `align` links them (`inference.markup.projection`). Every element of the text is in its
        translation once, with its attributes, and no others are; without its tags a sentence's translation is that of the
        sentence without them. `inference.markup.html_reader` and `xml_reader` say what separates and what is not translated,
        `inference.markup.tree.Element` which attributes are text. The rest is as in `translate`.

        Raises UserError as `translate` does, for a model without attention to the source, and for XML that is not well-formed.
        """
        require_layer(self.alignment_layer, self._layers, False)
        rest = dict(terminology=terminology, progress=progress, **options)
        names = TagNames(ignore_tags, splitting_tags, non_splitting_tags)
        return translate_texts(texts, markup, names, lambda lines: self.translate(lines, align="complete", **rest))

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Sequence[int]],
        *,
        length_penalty: float | None = None,
        length_normalization: str | None = None,
        word_reward: float | None = None,
        coverage_penalty: float | None = None,
    ) -> list[Translation]:
        """The translations that are given, with the model's log-probability of them, of each token, and the score that search
        would have given them: one pass with the target known.

        `targets` are text or translations' tokens. A text has many spellings in pieces; the tokenizer's is scored, which is not
        always the one that search found. Raises UserError if a sentence is too long for the model, or there is not one target
        for each source, TypeError for a string where a list belongs.
        """
        sources, targets = checked_pairs(sources, targets, self.tokenizer.vocab_size)
        by_length = dict(length_penalty=length_penalty, length_normalization=length_normalization, word_reward=word_reward)
        search = self.search_config(**by_length, coverage_penalty=coverage_penalty)
        source, target = self.tokenizer.encode_source(sources), self._target_rows(targets)
        decoded = self._decode(target)
        texts = [given if isinstance(given, str) else text for given, text in zip(targets, decoded, strict=True)]
        tokens, covers = positions_at_once(search), search.coverage_penalty > 0
        forced = self._forced.token_log_probs(self.params, source, target, tokens, covers)
        scored = []
        for line, text, ids, (row, coverage) in zip(sources, texts, target, forced, strict=True):
            log_prob = math.fsum(row.tolist())
            score = score_of(log_prob, len(row), search) + search.coverage_penalty * coverage
            tokens, rest = tuple(ids.tolist()), dict(token_log_probs=tuple(row.tolist()), source=line)
            scored.append(Translation(text, log_prob, score, tokens, **rest))
        return scored

    def attention(self, source: str, translation: str | Sequence[int] | Translation | None = None) -> Attention:
        """What every token of one translation attended to, in all layers and heads, between pieces and between words.

        `translation` is text, tokens, or what `translate` gave; where it is left out, `source` is translated. Raises UserError
        for a blank line, one in several parts or longer than the model's positions, and a model without attention; TypeError
        where `source` is not one string.
        """
        if translation is None and isinstance(source, str):
            (translation,) = self.translate([source], nbest=1)
        return attention_of_pair(self.model, self.params, self.tokenizer, source, translation, self._max_positions)

    def search_config(self, **options: Any) -> SearchOptions:
        """The config's options, but for those that are given and not None. Raises UserError for impossible values, TypeError
        for unknown options."""
        check_options(options, OPTIONS, "search_config")
        return checked_search(self.config, {name: value for name, value in options.items() if value is not None})

    def align_with(self, layer: int | None) -> None:
        """Checks, before anything is translated, that `align` can be asked, and has it use `layer`, from 1, from then on (None:
        `alignment_layer` stays as it is). Raises UserError for a model without attention to the source, or without such a
        layer."""
        explicit, layer = layer is not None, self.alignment_layer if layer is None else layer
        require_layer(layer, self._layers, explicit)
        self.alignment_layer = layer

    def align(self, sources: Sequence[str], targets: Sequence[str | Sequence[int]], *, layer: int | None = None) -> list[Links]:
        """Which words of each source became which of its target: every target piece is linked to the source piece that got
        most of its attention, in the mean over the heads of one layer.

        `targets` are text or translations' tokens. `layer`, from 1, is the one that aligned the dev set best unless it is
        given. Where no layer is known (an imported model, a checkpoint from before the first evaluation), it is the one whose
        links between the pieces of these pairs have the most `mutual_information`, and stays `alignment_layer` for the calls
        that follow. Raises UserError for a model without attention to the source, or without such a layer, or where there is
        not one target for each source, TypeError for a string where a list belongs.
        """
        sources, targets = checked_pairs(sources, targets, self.tokenizer.vocab_size)
        return self._align(sources, self.tokenizer.encode_source(sources), targets, layer)

    def _align(
        self, sources: list[str], source: list[np.ndarray], targets: list[str | np.ndarray], layer: int | None = None
    ) -> list[Links]:
        """`align`, where `source` are the ids of the sources."""
        if not self._layers or layer is not None:
            require_layer(self.alignment_layer if layer is None else layer, self._layers, layer is not None)
        if not sources:
            return []
        target = self._target_rows(targets)
        places = self._forced.hard_alignments(self.params, source, target, positions_at_once(self.config))
        if layer is None:
            self.alignment_layer = self.alignment_layer or measured_layer(places, source, target, self.tokenizer.eos_id)
            self.align_with(None)
            layer = self.alignment_layer
        return links_of_layer(layer, places, (source, target), (sources, targets), self.tokenizer)

    def _align_completely(self, sources: list[str], source: list[np.ndarray], targets: list[np.ndarray]) -> list[Links]:
        if not self.alignment_layer:
            self._align(sources, source, targets)
        require_layer(self.alignment_layer, self._layers, False)
        tokens, words = positions_at_once(self.config), self.tokenizer.words
        weights = self._forced.layer_attentions(self.params, source, targets, tokens, self.alignment_layer)
        links = [complete_links(row, words(x), words(y)) for row, x, y in zip(weights, source, targets, strict=True)]
        return [renumbered_links(*each, self.tokenizer) for each in zip(links, sources, targets, strict=True)]

    def _decode(self, rows: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        return [on_one_line(text) for text in self.tokenizer.decode(rows)]

    def _target_rows(self, targets: Sequence[str | np.ndarray]) -> list[np.ndarray]:
        return [self.tokenizer.encode_target([target])[0] if isinstance(target, str) else target for target in targets]

    def _search(
        self,
        pieces: list[Piece],
        options: SearchOptions,
        between: Callable[[], None] | None,
        progress: Callable[[int], None] | None,
    ) -> list[Translation]:
        """The translation of each piece, with its `others`."""
        one = Member(self._searcher, self.params)
        members = list(map(Member, self._pooled, self.params, self.model.weights)) if options.mbr and self._pooled else [one]
        return translate_pieces(members, self._decode, pieces, options, between, progress)


def load_others(names: Sequence[str]) -> list[Translator]:
    """The translators of RUN or RUN:CHECKPOINT each. Raises UserError as `Translator.load` does."""
    return [Translator.load(*split_run_name(name)) for name in names]


def load_translator(run: Run, checkpoint: CheckpointName, compute_dtype: str | None = None) -> tuple[Translator, str]:
    """The translator of `run`, and in words which parameters it has. `compute_dtype` is that of `Translator.of_run`. Raises
    UserError as `Translator.load` does."""
    translator = Translator.of_run(run, compute_dtype=compute_dtype)
    with run.checkpoints() as checkpoints:
        return translator.with_checkpoint(checkpoints, checkpoint)
