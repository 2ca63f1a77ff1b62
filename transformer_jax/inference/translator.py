"""Text in, text out: lines to batches, search on the device, and the translations back in the order the lines came."""

import copy
import dataclasses
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import numpy as np
from flax import linen as nn

from transformer_jax.arguments import check_options, list_of_texts, refuse_bare_text, require_one_for_each
from transformer_jax.config import Config, DecodeConfig, ModelConfig, validate
from transformer_jax.decoding.beam import length_divisors
from transformer_jax.errors import UserError
from transformer_jax.inference.alignment import Links, best_aligning_layer, join_links, word_links
from transformer_jax.inference.batched_search import Searcher, positions_at_once
from transformer_jax.inference.phrases import read_phrases, read_prefixes
from transformer_jax.inference.search_rows import Request
from transformer_jax.inference.sentences import Piece, split_line
from transformer_jax.inference.terminology import Terminology, compiled
from transformer_jax.models.ensemble import Ensemble
from transformer_jax.models.seq2seq import abstract_parameters, build_model
from transformer_jax.runs.checkpoints import Checkpoints, parse_checkpoint
from transformer_jax.runs.run_folder import Run, split_run_name
from transformer_jax.tokenization.normalization import word_numbers
from transformer_jax.tokenization.tokenizer import Tokenizer

__all__ = ["SearchOptions", "Translation", "Translator", "load_others", "load_translator"]

# White space at which somebody might end a line: a translation is one.
_AS_SPACES = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")
_SENTENCE_END = re.compile(r"[.!?\u2026]\W*$")

# What `Translator.translate` takes beside the search's options.
_OPTIONS = ("prefixes", "phrases", "terminology", "params", "align", "token_log_probs", "between")

log = logging.getLogger(__name__)


class Translation(NamedTuple):
    """One line's translation. A line that was translated in parts has their texts joined and their scores added up."""

    text: str
    log_prob: float  # natural logarithm of the model's probability, EOS included
    score: float  # what the search ranked by: log_prob over the length penalty
    tokens: tuple[int, ...]  # the tokenizer's ids, EOS included where the model gave one
    parts: int = 1  # how many parts the line was translated in; 0: it was blank
    alignment: Links | None = None  # which words of the line became which of the text, if it was asked for
    token_log_probs: tuple[float, ...] | None = None  # of each of `tokens`, if they were asked for
    others: tuple["Translation", ...] = ()  # the next best, best first, or what else was drawn (`nbest`)
    too_long: bool = False  # was the line, or with split_sentences=always a sentence of it, cut because it was too long?


class SearchOptions(TypedDict, total=False):
    """What a call may set instead of the config: the fields of `config.DecodeConfig`; None stands for the config's."""

    beam: int | None
    length_penalty: float | None
    coverage_penalty: float | None
    nbest: int | None
    split_sentences: str | None
    max_length_ratio: float | None
    max_length_extra: int | None
    min_length_ratio: float | None
    min_length_extra: int | None
    no_repeat_ngram: int | None
    tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None


class Translator:
    """A model, its parameters and its tokenizer, ready to translate. `model` is under the contract of `models/seq2seq.py`.

    Attributes:
        model: the linen module, or an `Ensemble`
        params: its parameters; None where each call is given its own
        tokenizer: of source and target
        config: the `DecodeConfig` that calls may differ from (`SearchOptions`)
        alignment_layer: whose attention aligns words, from 1; 0: not known yet, the first pairs that `align` gets will choose
        usual_length: tokens that sentences seldom exceed in the training text (`Progress`); 0: nobody has said

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
        self._config = config
        self._layers = _aligning_layers(config.model)
        self._searcher = Searcher(model, tokenizer, config)

    @classmethod
    def load(cls, workdir: str | Path, checkpoint: str = "best") -> "Translator":
        """The translator of a run folder. `checkpoint`: latest, best, a step, or `average:N`; where there are moving averages,
        these, or with `:raw` after it the parameters themselves. Raises UserError where one is not there, or damaged."""
        parse_checkpoint(checkpoint)
        return load_translator(Run(workdir), checkpoint)[0]

    @classmethod
    def of_run(cls, run: Run) -> "Translator":
        """The translator of a run, without parameters, which `with_checkpoint` puts in. Raises UserError where the tokenizer is
        not there, or damaged."""
        tokenizer = run.tokenizer()
        return cls(build_model(run.config.model, tokenizer.vocab_size), None, tokenizer, run.config)

    def together_with(self, others: Sequence["Translator"]) -> "Translator":
        """One that translates by the mean of the probabilities of all (`models.ensemble`), with the search, the alignment layer
        and the usual length of this one. Lines are cut into pieces that every model can read: of the smallest
        `batch.max_length`, for the smallest table of learned positions. Raises UserError if a vocabulary is not that of this
        one."""
        others = [others] if isinstance(others, Translator) else list(others)
        for other in others:
            if other.tokenizer.fingerprint != self.tokenizer.fingerprint:
                raise UserError("models translate together only with the same tokenizer: train all on the same text")
        members = self, *others
        models, params = zip(*((each.model, each.params) for each in members), strict=True)
        shortest = min(members, key=lambda each: each._searcher.room)
        longest = min(each._config.batch.max_length for each in members)
        batch = dataclasses.replace(self._config.batch, max_length=longest)
        config = dataclasses.replace(self._config, decode=self.config, model=shortest._config.model, batch=batch)
        ensemble = Translator(Ensemble(models), params, self.tokenizer, config, self.alignment_layer, self.usual_length)
        ensemble._layers = self._layers
        return ensemble

    def with_checkpoint(self, checkpoints: Checkpoints, which: str) -> tuple["Translator", str]:
        """The translator with the parameters of a checkpoint of its run, and in words which these are.

        What has been compiled for one is not compiled for the other. Raises UserError as `Checkpoints.parameters` does.
        """
        params, name = checkpoints.parameters(which, abstract_parameters(self.model), self.tokenizer)
        progress = checkpoints.progress(checkpoints.resolve(which)[-1])
        other = copy.copy(self)
        other.params, other.usual_length = jax.device_put(params), progress.usual_length
        other.alignment_layer = self.config.alignment_layer or progress.alignment_layer
        return other, name

    def translate(
        self,
        lines: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        complete_words: bool = False,
        phrases: Sequence[Sequence[str]] | None = None,
        phrase_ends: str = "word",
        terminology: Mapping[str, str] | Terminology | None = None,
        params: Any = None,
        align: bool = False,
        token_log_probs: bool = False,
        between: Callable[[], None] | None = None,
        **search: Unpack[SearchOptions],
    ) -> list[Translation]:
        """One translation for each line, in the order of the lines; a blank line has the empty translation.

        What `split_sentences` says (`config.DecodeConfig`) is translated in pieces (`data.sentences.split_line`). The white
        space between them comes back, that at which somebody might end a line as spaces. `prefixes`, one for each line, are
        what the translations begin with, in whole words; with `complete_words` the last word may be unfinished. `phrases`, any
        number for each line, and what `terminology` has for words of it (as `Terminology` finds them), must occur in them, in
        whole words, or with `phrase_ends="anywhere"` perhaps followed by letters; one place may satisfy several. Lines whose
        translation lacks some are searched once more, with a beam of more hypotheses than their phrases have tokens if `beam`
        has fewer (`Searcher.search`). Of a line in pieces, prefix and `phrases` are in the first, terms in that of their words.
        `params` stands in for the translator's own, `search` for fields of the config. With `align` each has its word
        alignment, as method `align` makes it, with `token_log_probs` those of its tokens.

        The rows of a batch are shared by all local devices; where there are several processes, all of them must come here, with
        the same lines, and each works through a part of the batches. `between` is called between two of them.

        Raises UserError for impossible values, for a line that is not to be split and has more tokens than the model has
        positions, and where memory is too small; TypeError for a string where a list of strings belongs, and for an option that
        there is not.
        """
        lines, prefixes, phrases = _checked(lines, prefixes, phrases, terminology)
        check_options(search, [*SearchOptions.__annotations__, *_OPTIONS], "translate")
        decode = self.search_config(**search)
        params = self.params if params is None else params
        parts = self._pieces(lines, decode.split_sentences)
        flat = [part.text for pieces in parts for part in pieces]
        # The first of a line's parts has its prefix and phrases.
        starts, wanted = (
            [each if not i else nothing for each, pieces in zip(given, parts, strict=True) for i in range(len(pieces))]
            for given, nothing in ((prefixes, ""), (phrases, ()))
        )
        if terminology:
            terms = terminology if isinstance(terminology, Terminology) else compiled(tuple(terminology.items()))
            wanted = [[*each, *terms.translations(part)] for each, part in zip(wanted, flat, strict=True)]
        found = self._translate_parts(flat, starts, complete_words, wanted, phrase_ends, decode, params, between)
        if align or token_log_probs:
            found = self._tell_more(flat, found, align, token_log_probs, params)
        rest = iter(found)
        nothing = Translation("", 0.0, 0.0, (), 0, () if align else None, () if token_log_probs else None)
        return [
            self._join(line, pieces, [next(rest) for _ in pieces], decode) if pieces else nothing
            for line, pieces in zip(lines, parts, strict=True)
        ]

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Sequence[int]],
        *,
        params: Any = None,
        length_penalty: float | None = None,
        coverage_penalty: float | None = None,
    ) -> list[Translation]:
        """The translations that are given, with the model's log-probability of them, of each token, and the score that search
        would have given them: one pass with the target known.

        `targets` are text or translations' tokens. A text has many spellings in pieces; the tokenizer's is scored, which is not
        always the one that search found. Raises UserError if a sentence is too long for the model, or there is not one target
        for each source, TypeError for a string where a list belongs.
        """
        sources, targets = self._checked_pairs(sources, targets)
        decode = self.search_config(length_penalty=length_penalty, coverage_penalty=coverage_penalty)
        source, target = self.tokenizer.encode_source(sources), self._target_rows(targets)
        texts = self._lines(target)
        given = [each if isinstance(each, str) else text for each, text in zip(targets, texts, strict=True)]
        params = self.params if params is None else params
        scored = []
        tokens, covers = positions_at_once(decode), decode.coverage_penalty > 0
        known = self._searcher.token_log_probs(params, source, target, tokens, covers)
        for text, ids, (row, coverage) in zip(given, target, known, strict=True):
            log_prob = math.fsum(row.tolist())
            score = log_prob / length_divisors(len(row), decode.length_penalty)[-1].item()
            score += decode.coverage_penalty * coverage
            scored.append(Translation(text, log_prob, score, tuple(ids.tolist()), token_log_probs=tuple(row.tolist())))
        return scored

    def search_config(self, **search: Unpack[SearchOptions]) -> DecodeConfig:
        """The config's, but for what is given. Raises UserError for impossible values, TypeError for unknown options."""
        check_options(search, SearchOptions.__annotations__, "search_config")
        decode = dataclasses.replace(self.config, **{name: value for name, value in search.items() if value is not None})
        return validate(Config(decode=decode)).decode

    def align_with(self, layer: int | None) -> None:
        """Checks, before anything is translated, that `align` can be asked, and has it use `layer`, from 1, from then on (None:
        `alignment_layer` stays as it is). Raises UserError for a model without attention to the source, or without such a
        layer."""
        explicit, layer = layer is not None, self.alignment_layer if layer is None else layer
        if not self._layers:
            raise UserError("this model has no attention to the source: it cannot align words")
        if (layer or explicit) and not 1 <= layer <= self._layers:
            raise UserError(f"alignment layer {layer} should be from 1 to {self._layers}; name it with --alignment_layer")
        self.alignment_layer = layer

    def align(
        self, sources: Sequence[str], targets: Sequence[str | Sequence[int]], *, layer: int | None = None, params: Any = None
    ) -> list[Links]:
        """Which words of each source became which of its target: every target piece is linked to the source piece that got
        most of its attention, in the mean over the heads of one layer.

        `targets` are text or translations' tokens. `layer`, from 1, is the one that aligned the dev set best unless it is
        given. Where no layer is known (an imported model, a checkpoint from before the first evaluation), it is the one whose
        links between the pieces of these pairs have the most `mutual_information`, and stays `alignment_layer` for the calls
        that follow. Raises UserError for a model without attention to the source, or without such a layer, or where there is
        not one target for each source, TypeError for a string where a list belongs.
        """
        sources, targets = self._checked_pairs(sources, targets)
        if not self._layers or layer is not None:
            copy.copy(self).align_with(layer)
        if not len(sources):
            return []
        params = self.params if params is None else params
        source, target = self.tokenizer.encode_source(sources), self._target_rows(targets)
        places = self._searcher.most_attended(params, source, target, positions_at_once(self.config))
        if layer is None:
            if not self.alignment_layer:
                self.alignment_layer = self._measured_layer(places, source, target)
                log.info("words are aligned by decoder layer %d, which tells most about these sentences", self.alignment_layer)
            self.align_with(None)
            layer = self.alignment_layer
        words = self.tokenizer.words
        links = [word_links(row[layer - 1], words(x), words(y)) for row, x, y in zip(places, source, target, strict=True)]
        return [self._renumbered(*each) for each in zip(links, sources, targets, strict=True)]

    def _measured_layer(self, places: list[np.ndarray], source: list[np.ndarray], target: list[np.ndarray]) -> int:
        """The `best_aligning_layer` of pairs whose target pieces looked at `places`, int32 [L, T or more] each."""
        real = [row != self.tokenizer.eos_id for row in target]
        looked = [x[at[:, : len(y)]][:, keep] for x, y, at, keep in zip(source, target, places, real, strict=True)]
        written = np.concatenate([row[keep] for row, keep in zip(target, real, strict=True)])
        return best_aligning_layer(list(np.concatenate(looked, axis=1)), written)

    def _lines(self, rows: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        # A tokenizer that falls back to bytes can spell a line feed and others.
        return [text.translate(_AS_SPACES) for text in self.tokenizer.decode(rows)]

    def _checked_pairs(
        self, sources: Iterable[str], targets: Iterable[str | Sequence[int]]
    ) -> tuple[list[str], list[str | np.ndarray]]:
        sources = list_of_texts(sources, "sources")
        refuse_bare_text(targets, "targets", "strings or rows of tokens")
        checked: list[str | np.ndarray] = []
        for number, target in enumerate(targets):
            ids = None if isinstance(target, str) else np.asarray(target)
            if ids is not None and ids.ndim == 1 and not ids.size:
                raise UserError(f"targets[{number}] has no token; a translation ends with EOS, and the empty one has it alone")
            if ids is not None and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
                raise TypeError(f"targets[{number}] should be a string, or the tokens of a translation, not {target!r}")
            size = self.tokenizer.vocab_size
            if ids is not None and not 0 <= ids.min() <= ids.max() < size:
                raise UserError(f"targets[{number}]: expected tokens from 0 to {size - 1}, found {ids.min()} to {ids.max()}")
            checked.append(target if ids is None else ids.astype(np.int32))
        require_one_for_each(checked, "targets", sources, "sources")
        return sources, checked

    def _target_rows(self, targets: Sequence[str | Sequence[int]]) -> list[np.ndarray]:
        return [
            self.tokenizer.encode_target([each])[0] if isinstance(each, str) else np.asarray(each, np.int32) for each in targets
        ]

    def _tell_more(
        self, texts: list[str], found: list[Translation], align: bool, token_log_probs: bool, params: Any
    ) -> list[Translation]:
        """`found`, and the `others` of each, with what is asked for."""
        if not found:
            return []
        counts = [1 + len(each.others) for each in found]
        flat = [one for each in found for one in (each, *each.others)]
        sources = [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
        tokens = [one.tokens for one in flat]
        if align:
            links = self.align(sources, tokens, params=params)
            flat = [one._replace(alignment=of_one) for one, of_one in zip(flat, links, strict=True)]
        if token_log_probs:
            scored = self.score(sources, tokens, params=params)
            flat = [one._replace(token_log_probs=of_one.token_log_probs) for one, of_one in zip(flat, scored, strict=True)]
        rest = iter(flat)
        return [next(rest)._replace(others=tuple(next(rest) for _ in each.others)) for each in found]

    def _pieces(self, lines: Sequence[str], split: str) -> list[list[Piece]]:
        """Each line as it is to be translated; no piece of a blank line."""
        sizes = map(len, self.tokenizer.encode_source(lines))  # one call for all; few lines are asked about again
        longest, language = self._config.batch.max_length, self._config.data.source_language
        found = []
        for line, text, size in zip(lines, self.tokenizer.visible(lines), sizes, strict=True):
            if split == "never" and size > self._searcher.room:
                raise UserError(
                    f"{line[:40]!r}...: has {size} tokens, the model has positions for {self._searcher.room}; leave "
                    "decode.split_sentences (--split_sentences) at long"
                )
            # What is in a line that is short enough is, too.
            count = self._count if size > longest else (lambda _: 0)
            pieces = split_line(text, count, longest, split=split, usual=self.usual_length, language=language)
            found.append([Piece(line.strip())] if len(pieces) == 1 else pieces)
        return found

    def _join(self, line: str, pieces: list[Piece], parts: list[Translation], decode: DecodeConfig) -> Translation:
        """The translation of a line from those of its parts. Its n best are the best of all combinations; of samples, the first
        of each part belong together, the second, and so on."""
        if len(parts) == 1:
            return parts[0]
        choices = [(part, *part.others) for part in parts]
        if decode.temperature:
            together = list(zip(*choices, strict=True))
        else:
            together = [()]
            for of_part in choices:
                longer = [(*before, one) for before in together for one in of_part]
                together = sorted(longer, key=lambda chosen: -sum(one.score for one in chosen))[: decode.nbest]
        cut = decode.split_sentences == "long" or any(piece.cut for piece in pieces)
        best, *others = (self._joined(line, pieces, chosen)._replace(too_long=cut) for chosen in together)
        return best._replace(others=tuple(others))

    def _joined(self, line: str, pieces: list[Piece], parts: Sequence[Translation]) -> Translation:
        alignments = [part.alignment for part in parts]
        log_probs = [part.token_log_probs for part in parts]
        texts = _with_gaps([part.text for part in parts], [piece.gap for piece in pieces])
        links = None
        if None not in alignments:
            (seen,) = self.tokenizer.visible([line])
            links = self._renumbered(join_links(seen, [piece.text for piece in pieces], texts, alignments), line)
        return Translation(
            "".join(texts),
            sum(part.log_prob for part in parts),
            sum(part.score for part in parts),
            tuple(token for part in parts for token in part.tokens),
            len(parts),
            links,
            None if None in log_probs else tuple(itertools.chain(*log_probs)),
        )

    def _renumbered(self, links: Links, source: str, target: str | Sequence[int] = ()) -> Links:
        """Links between the words that the model sees as those between the words of the texts."""
        if not self.tokenizer.normalizes:
            return links
        x, y = (word_numbers(text) if isinstance(text, str) else range(len(text)) for text in (source, target))
        return tuple((x[i], y[j] if y else j) for i, j in links)

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode_source([text])[0])

    def _translate_parts(
        self,
        texts: list[str],
        starts: list[str],
        complete_words: bool,
        wanted: Sequence[Sequence[str]],
        phrase_ends: str,
        decode: DecodeConfig,
        params: Any,
        between: Callable[[], None] | None,
    ) -> list[Translation]:
        prefixes = read_prefixes(self.tokenizer, starts, complete_words)
        phrases = read_phrases(self.tokenizer, wanted, phrase_ends)
        if decode.temperature and any(phrases):
            raise UserError("phrases and terms need a search: leave decode.temperature (--temperature) at 0")
        requests = map(Request, self.tokenizer.encode_source(texts), prefixes, phrases)
        found = self._searcher.search(params, list(requests), decode, between)
        translations = []
        for source, of_text, of_sentence in zip(texts, phrases, found, strict=True):
            if of_text and not of_sentence[0].ids:
                raise UserError(f"{source!r}: no translation has all its phrases and keeps the other rules; take one away")
            best, *others = (
                Translation(text, each.log_prob, each.score, tuple(each.ids))
                for text, each in zip(self._lines([each.ids for each in of_sentence]), of_sentence, strict=True)
            )
            translations.append(best._replace(others=tuple(others)))
        return translations


def _checked(
    lines: Iterable[str],
    prefixes: Iterable[str] | None,
    phrases: Iterable[Iterable[str]] | None,
    terminology: Terminology | Mapping[str, str] | None,
) -> tuple[list[str], list[str], list[list[str]]]:
    """The arguments of `Translator.translate` as lists: an empty prefix and no phrase for each line where none are given."""
    lines = list_of_texts(lines, "lines")
    prefixes = [""] * len(lines) if prefixes is None else list_of_texts(prefixes, "prefixes")
    phrases = [()] * len(lines) if phrases is None else phrases
    refuse_bare_text(phrases, "phrases", "lists of strings")
    phrases = [list_of_texts(of_line, f"phrases[{number}]") for number, of_line in enumerate(phrases)]
    for name, values in (("prefixes", prefixes), ("phrases", phrases)):
        require_one_for_each(values, name, lines, "lines")
    if isinstance(terminology, Terminology):
        return lines, prefixes, phrases
    if terminology is not None and not isinstance(terminology, Mapping):
        raise TypeError(f"terminology should be a dict from terms to their translations, not {terminology!r}")
    for term, translation in (terminology or {}).items():
        if not isinstance(term, str) or not isinstance(translation, str):
            raise TypeError(f"terminology: expected a string for a string, found {term!r}: {translation!r}")
    return lines, prefixes, phrases


def _aligning_layers(model: ModelConfig) -> int:
    """How many layers have attention to the source."""
    if model.family == "lstm":
        return int(model.attention != "none")
    return model.decoder_layers or model.num_layers


def load_others(names: Sequence[str]) -> list[Translator]:
    """The translators of RUN or RUN:CHECKPOINT each. Raises UserError as `Translator.load` does."""
    return [Translator.load(*split_run_name(name)) for name in names]


def load_translator(run: Run, checkpoint: str) -> tuple[Translator, str]:
    """The translator of `run`, and in words which parameters it has. Raises UserError as `Translator.load` does."""
    translator = Translator.of_run(run)
    with run.checkpoints() as checkpoints:
        return translator.with_checkpoint(checkpoints, checkpoint)


def _with_gaps(texts: Sequence[str], gaps: Sequence[str]) -> list[str]:
    """The translations of a line's pieces, each with what is between it and the next that is not empty. Where the line has no
    white space there is none, unless a sentence ends there in a language that has one."""
    spaced, following = [], False
    for text, gap in reversed(list(zip(texts, gaps, strict=True))):
        between = gap.translate(_AS_SPACES) or (" " if _SENTENCE_END.search(text) else "")
        spaced.append(text + between if text and following else text)
        following |= bool(text)
    return spaced[::-1]
