"""Text in, text out: the class that users translate, score and align with."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transformer_jax.config import SearchOptions
from transformer_jax.decoding.length_penalty import score_of
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import Links, complete_links, renumbered_links
from transformer_jax.inference.arguments import checked_lines, checked_pairs, checked_terminology
from transformer_jax.inference.attention import Attention, attention_of_pair
from transformer_jax.inference.batched_search import positions_at_once
from transformer_jax.inference.confidence import with_confidence
from transformer_jax.inference.line_pieces import Piece, with_prefixes_and_phrases
from transformer_jax.inference.loaded_model import OPTIONS, LoadedModel
from transformer_jax.inference.markup.translation import MarkupTranslation, TagNames, translate_texts
from transformer_jax.inference.open_search import OpenSearch
from transformer_jax.inference.piece_search import Member, translate_pieces
from transformer_jax.inference.protected_spans import Protection
from transformer_jax.inference.protected_translation import Requirements, WithLinks, translate_protected
from transformer_jax.inference.search_queue import Ticket
from transformer_jax.inference.shared_searcher import SharedSearcher
from transformer_jax.inference.terminology import Terminology
from transformer_jax.inference.translation import Translation, empty_translation, join_pieces
from transformer_jax.inference.word_aligner import aligned, links_of_layer, measured_layer, require_layer
from transformer_jax.runs.checkpoint_name import CheckpointName
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.span_patterns import read_patterns
from transformer_jax.tokenization.text_arguments import check_options

__all__ = ["OPTIONS", "Translator", "load_others", "load_translator"]

# What `Translator.translate` takes beside these.
_ARGUMENTS = ["prefixes", "complete_words", "phrases", "phrase_ends", "terminology", "protect", "numbers", "align"]
_ARGUMENTS += ["between", "progress"]


class Translator(LoadedModel):
    """A model, its parameters and its tokenizer, ready to translate. Its attributes are those of `LoadedModel`.

    >>> translator = Translator.load("runs/demo")                      # doctest: +SKIP
    >>> translator.translate(["The dog sleeps."])[0].text              # doctest: +SKIP
    'Der Hund schläft.'
    """

    def open_search(self, **options: Any) -> OpenSearch:
        """A search for pieces that come from any thread at any time, with options as `translate` has them, whose `nbest` is the
        beam. Raises UserError for impossible values, and where tokens would be drawn."""
        search = self.search_config(**options)
        if search.temperature or search.mbr:
            raise UserError("--temperature and --mbr: a search that stays open draws no tokens; leave them at 0")
        self.speller(search)  # before anything is asked of it
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
        protect: str | Sequence[str] | Protection | None = None,
        numbers: str = "keep",
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
        Spans that `protect` names (`tokenization.span_patterns.read_patterns`) come out as they are, each once; with
        `numbers="locale"` numbers do, written as the target language writes them. The model sees placeholders for them if it
        was trained with these (`inference.protected_spans`), and `tokens` are what it wrote. With `align` each has its word
        alignment, as method `align` makes it, with "complete" one that leaves no word without a link
        (`alignment.complete_links`).

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
        maker = self._piece_maker(search, terms)
        rules = Requirements(prefixes, complete_words, phrases, phrase_ends, terms)
        if protection := self.protection(protect, numbers):
            run = functools.partial(self._search_reporting, len(lines), search, between, progress)
            again = functools.partial(self._search, options=search, between=between, progress=None)
            translations = translate_protected(protection, lines, maker, search, rules, run, again, *self._aligners(align))
            return with_confidence(translations, self.calibration, self.origin, search, self.tokenizer)
        of_lines = maker.pieces(lines, search)
        pieces = with_prefixes_and_phrases(maker, of_lines, *rules)
        parts = self._search_reporting(len(lines), search, between, progress, pieces)
        add_links, _ = self._aligners(align)
        rest = iter(add_links(pieces, parts) if add_links and pieces else parts)
        translations = [
            join_pieces(line, of_line, [next(rest) for _ in of_line], search, self.tokenizer)
            if of_line
            else empty_translation(bool(align))
            for line, of_line in zip(lines, of_lines, strict=True)
        ]
        return with_confidence(translations, self.calibration, self.origin, search, self.tokenizer)

    def pieces(self, lines: Sequence[str], split_sentences: str | None = None) -> list[list[Piece]]:
        """What of each line is translated by itself; nothing of a blank one. Raises UserError as `translate` does."""
        lines = checked_lines(lines, None, None)[0]
        search = self.search_config(split_sentences=split_sentences)
        return self._piece_maker(search).pieces(lines, search)

    def translate_markup(
        self,
        texts: Sequence[str],
        markup: str = "html",
        *,
        ignore_tags: Sequence[str] = (),
        splitting_tags: Sequence[str] = (),
        non_splitting_tags: Sequence[str] = (),
        terminology: Mapping[str, str] | Terminology | None = None,
        protect: str | Sequence[str] | Protection | None = None,
        numbers: str = "keep",
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
        protection = self.protection(protect, numbers)
        if not protection and self.tokenizer.placeholder_ids:
            protection = Protection(read_patterns([]), None)  # what is not to be translated is a placeholder

        def translate(lines: list[str], kept: list[list[tuple[int, int]]]) -> list[Translation]:
            return self.translate(lines, align="complete", protect=protection and protection._replace(kept=kept), **rest)

        return translate_texts(texts, markup, names, translate)

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
        always the one that search found. Sources are scored as they are written, whatever capitals and spelling a search reads
        otherwise. Raises UserError if a sentence is too long for the model, or there is not one target
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

        `translation` is text, tokens, or what `translate` gave; where it is left out, `source` is translated. A line that
        was not read as it is written (`Translation.read`) is shown as it was read. Raises UserError for a
        blank line, one in several parts or longer than the model's positions, and a model without attention; TypeError where
        `source` is not one string.
        """
        if translation is None and isinstance(source, str):
            (translation,) = self.translate([source], nbest=1)
        if isinstance(translation, Translation) and isinstance(source, str):
            source = translation.read or source
        return attention_of_pair(self.model, self.params, self.tokenizer, source, translation, self._max_positions)

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

    def _aligners(self, align: bool | Literal["complete"]) -> tuple[WithLinks | None, WithLinks | None]:
        """What adds the alignments that were asked for, if they were, and complete ones, if the model can."""
        completely = functools.partial(aligned, self._align_completely)
        asked = completely if align == "complete" else functools.partial(aligned, self._align)
        return asked if align else None, completely if self._layers else None

    def _search_reporting(
        self,
        lines: int,
        options: SearchOptions,
        between: Callable[[], None] | None,
        progress: Callable[[int, int], None] | None,
        pieces: list[Piece],
    ) -> list[Translation]:
        """`_search`, where `progress` gets the number of lines, in proportion, and of all `lines`."""
        report = progress and (lambda done: progress(done * lines // len(pieces), lines))
        return self._search(pieces, options, between, report)

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


def load_others(names: Sequence[str], compute_dtype: str | None = None) -> list[Translator]:
    """The translators of RUN or RUN:CHECKPOINT each. `compute_dtype` is that of `Translator.of_run`. Raises UserError as
    `Translator.load` does."""
    parts = map(split_run_name, names)
    return [load_translator(Run(run), CheckpointName.parse(name), compute_dtype)[0] for run, name in parts]


def load_translator(run: Run, checkpoint: CheckpointName, compute_dtype: str | None = None) -> tuple[Translator, str]:
    """The translator of `run`, and in words which parameters it has. `compute_dtype` is that of `Translator.of_run`. Raises
    UserError as `Translator.load` does."""
    translator = Translator.of_run(run, compute_dtype=compute_dtype)
    with run.checkpoints() as checkpoints:
        return translator.with_checkpoint(checkpoints, checkpoint)
