"""The options of a search: how translations are searched for, or drawn."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from transformer_jax.config.fields import AtLeast, AtMost, Flag, Fraction, HostOnly, MayChange, ZeroOr, annotations, record

__all__ = ["DecodeConfig", "SearchOptions"]


# For a type checker SearchOptions is not frozen: it would refuse assignments to fields of DecodeConfig, which inherits them.
_FROZEN = not TYPE_CHECKING


@dataclass(frozen=_FROZEN, slots=True)
class SearchOptions:
    """Beam search (Wu et al. 2016 for the length penalty), greedy search or sampling.

    It is hashable, so that it can be a static argument of a jitted function. `DecodeConfig` has the same fields, and a config
    file can set them one by one. What is written here is all there is of an option: `config.fields` explains the records of an
    annotation, `Parser.add_search` makes a command-line flag of each `Flag`, `validate` checks the limits.

    >>> SearchOptions(beam=1, seed=7).compiled() == SearchOptions(beam=1)
    True
    """

    beam: Annotated[int, AtMost(10_000), Flag("hypotheses of the search, 1 is greedy")] = 4  # hypotheses kept; 1: greedy search
    # the power a of length_normalization; 0 favours short translations
    length_penalty: Annotated[float, AtLeast(0), AtMost(10), Flag("0 favours short translations")] = 0.6
    # the score of a translation of n tokens, EOS included, where a is length_penalty. gnmt: log P / ((5 + n) / 6)^a (Wu et al.
    # 2016); power: log P / n^a, as fairseq, Marian, Hugging Face and CTranslate2 have it; none: log P
    length_normalization: Annotated[
        Literal["gnmt", "power", "none"],
        Flag("the score: log P / ((5 + n) / 6)^a (gnmt), log P / n^a (power), log P (none)"),
    ] = "gnmt"
    # what score gains for each token, against translations that are too short
    word_reward: Annotated[float, AtLeast(0), AtMost(1000), Flag("added to the score for each token")] = 0.0
    # what score loses for source tokens that got little attention; 0.2 is usual
    coverage_penalty: Annotated[
        float, AtLeast(0), AtMost(1000), Flag("against translations that leave out parts of the source")
    ] = 0.0
    # a translation has at most ratio * (source tokens) + extra tokens; the ratio may be 1,000, extra 100,000 at most
    max_length_ratio: Annotated[
        float,
        AtLeast(0),
        AtMost(1000),
        HostOnly(),
        Flag("a translation has at most ratio * source tokens + extra tokens"),
    ] = 2.0
    # the extra of max_length_ratio, so that short sentences have room
    max_length_extra: Annotated[
        int, AtLeast(0), AtMost(100_000), HostOnly(), Flag("the extra tokens of --max_length_ratio", "N")
    ] = 16
    # a translation has at least ratio * (source tokens) + extra tokens, EOS included
    min_length_ratio: Annotated[
        float, AtLeast(0), AtMost(1000), HostOnly(), Flag("a translation has at least ratio * source tokens + extra tokens")
    ] = 0.0
    # the extra of min_length_ratio
    min_length_extra: Annotated[
        int, AtLeast(0), AtMost(100_000), HostOnly(), Flag("the extra tokens of --min_length_ratio", "N")
    ] = 0
    # no run of so many tokens comes twice; 0: it may
    no_repeat_ngram: Annotated[int, AtLeast(0), AtMost(100_000), Flag("no run of N tokens comes twice", "N")] = 0
    # Which lines are translated sentence by sentence: never | long: those of more than batch.max_length tokens, as many
    # sentences together as have the usual length of training's sources (the 95th percentile) | always
    split_sentences: Annotated[
        Literal["never", "long", "always"],
        HostOnly(),
        Flag("lines translated sentence by sentence: never, long, always", "WHICH"),
    ] = "long"
    # LINES IN CAPITALS, or With A Capital At Each Word: keep: the model reads them as they are | restore: it reads small
    # letters, and the translation gets the capitals, unless there is a prefix, a phrase or a term
    capitals: Annotated[
        Literal["keep", "restore"],
        HostOnly(),
        Flag("LINES IN CAPITALS: keep them, or restore: read as small letters, the translation in capitals", "WHICH"),
    ] = "keep"
    # Words that the training text's sources do not have: keep: the model reads them as they are | correct: those that are one
    # typing error away from one that they have are read as it is spelled
    spelling: Annotated[
        Literal["keep", "correct"],
        HostOnly(),
        Flag("unknown words: keep them, or correct: read a known one that is a typing error away", "WHICH"),
    ] = "keep"
    nbest: Annotated[int, AtMost(10_000)] = 1  # how many translations of each sentence; of a beam at most as many as it has
    # source positions in one batch of the search, those of each hypothesis counted; 0: 4096 on CPU, 65,536 elsewhere
    tokens: Annotated[
        int,
        AtLeast(0),
        MayChange(),
        HostOnly(),
        Flag("source positions at once, for each hypothesis", "N", "decode_tokens"),
    ] = 0
    # the tokens of a translation are chosen among so many target pieces for each piece of the source, by the run's lexical
    # table, and the most frequent ones, which with a beam is faster on CPU, and may change translations; 0: among all
    shortlist: Annotated[
        int,
        AtLeast(0),
        AtMost(1000),
        HostOnly(),
        Flag("choose among N pieces for each piece of the source, not among all", "N"),
    ] = 0
    # the decoder layer whose attention aligns words, from 1; 0: the one that aligned the dev set best
    alignment_layer: Annotated[int, AtLeast(0), MayChange(), HostOnly()] = 0

    # Sampling, instead of search: each token is drawn.
    temperature: Annotated[
        float,
        AtLeast(0),
        AtMost(1e6),
        ZeroOr(1e-6),  # below it, log P / temperature is no number of 32 bits
        Flag("above 0: draw each token from P^(1/temperature)"),
    ] = 0.0  # 0: search; else tokens are drawn with probability P^(1 / temperature) / Z
    # tokens are drawn from so many of the most probable; 0: from all
    top_k: Annotated[int, AtLeast(0), Flag("draw from the N most probable", "N")] = 0
    # tokens are drawn from the fewest that have this share of the probability together
    top_p: Annotated[float, AtMost(1), Flag("draw from the fewest with this share of probability", "SHARE")] = 1.0
    # tokens with a smaller probability are never drawn, the most probable excepted (Hewitt et al. 2022); 0: off
    epsilon: Annotated[Fraction, Flag("never draw tokens of a smaller probability", "PROBABILITY")] = 0.0
    # what is drawn for a sentence is a function of seed and sentence; 2**64 - 1 at most
    seed: Annotated[
        int, AtLeast(0), AtMost((1 << 64) - 1), HostOnly(), Flag("of what is drawn, a function of it and the sentence")
    ] = 0

    # Minimum Bayes risk, instead of the most probable translation: the candidate that is most like all the others.
    # how many candidates; 0: off. Where temperature is 0 they are drawn at temperature 1, with epsilon 0.02 if that is 0
    mbr: Annotated[
        int, ZeroOr(2), AtMost(1000), HostOnly(), Flag("of N candidates the one most like all (minimum Bayes risk)", "N")
    ] = 0
    # alike by sacreBLEU's score of a sentence: chrf or bleu
    mbr_metric: Annotated[
        Literal["chrf", "bleu"], HostOnly(), Flag("by which candidates of --mbr are alike: chrf, bleu", "WHICH")
    ] = "chrf"
    # the candidates: samples | beam: the n best of a beam that is as wide as mbr, or wider
    mbr_from: Annotated[
        Literal["samples", "beam"], HostOnly(), Flag("candidates of --mbr: samples, or beam for its n best", "WHICH")
    ] = "samples"

    def candidates(self) -> "SearchOptions":
        """With `mbr`, the options of the search or sampling that finds the candidates; else these.

        >>> options = SearchOptions(mbr=32).candidates()
        >>> options.nbest, options.temperature, options.epsilon
        (32, 1.0, 0.02)
        """
        if not self.mbr:
            return self
        changes = dict(nbest=self.mbr, mbr=0, mbr_metric="chrf", mbr_from="samples")
        if self.mbr_from == "beam":
            changes["beam"] = max(self.beam, self.mbr)
        elif not self.temperature:
            # The best of what Freitag et al. 2023 tried.
            changes |= dict(temperature=1.0, epsilon=self.epsilon or 0.02)
        return dataclasses.replace(self, **changes)

    @property
    def draws(self) -> bool:
        """Whether translations, or the candidates of `mbr`, are drawn by chance."""
        return self.temperature > 0 or (self.mbr > 0 and self.mbr_from == "samples")

    def compiled(self) -> "SearchOptions":
        """What a compiled search depends on: these options, with the fields that are `HostOnly` at their defaults."""
        fields = annotations(SearchOptions)
        return SearchOptions(**{name: getattr(self, name) for name in fields if record(fields[name], HostOnly) is None})


class DecodeConfig(SearchOptions):
    """The same fields as a section of the config: a config file sets them one by one."""

    __slots__ = ()
    # A frozen dataclass forbids assignment in these two methods.
    __setattr__ = object.__setattr__
    __delattr__ = object.__delattr__
    __hash__ = None

    def frozen(self) -> SearchOptions:
        """These options as they are now."""
        return SearchOptions(**dataclasses.asdict(self))
