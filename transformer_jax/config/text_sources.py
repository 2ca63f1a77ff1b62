"""The sources of `data.train` as a list in Python."""

from dataclasses import dataclass
from typing import Any

__all__ = ["TextSource", "train_text"]


@dataclass(frozen=True)
class TextSource:
    """One source of training text. As text, which `data.source_syntax` parses, it is `"NAME" * WEIGHT (KEY=VALUE ...)`.

    >>> print(TextSource("wmt/news, new", weight=2.5, max_ratio=3, tag="<news>"))
    "wmt/news, new" * 2.5 (tag=<news> max_ratio=3)
    >>> print(TextSource("talks", join="0.2:2-4", swap=True))
    "talks" (join=0.2:2-4 swap=true)
    >>> print(TextSource("news", weight=0.1, noise="upper=1"))
    "news" * 0.1 (upper=1)
    """

    name: str  # as `DataConfig` describes it; it may have any character
    weight: float = 1.0  # how often an epoch has each of its pairs
    tag: str = ""  # the word that goes before each source sentence
    columns: tuple[int, int] | None = None  # of source and target in a FILE.tsv, from 1
    max_words: int | None = None  # this filter, the next two and `filters`; None: as in `DataConfig`
    max_ratio: float | None = None
    deduplicate: bool | None = None
    join: str = ""  # SHARE:PAIRS or SHARE:LEAST-MOST: the share of examples that are so many pairs joined (`data.joining`)
    swap: bool = False  # source and target change places
    noise: str = ""  # noises and the chance of each, as in "upper=0.05 typos=0.1" (`data.noise`)
    placeholders: float | None = None  # the chance that a pair gets placeholders (`data.placeholders`)
    filters: str | None = None  # names joined by +, or none
    score_column: int | None = None  # of each pair's score in a FILE.tsv, from 1
    scores: str = ""  # or a file of the scores, a number a line
    min_score: float | None = None  # the least score of a pair that is kept

    def __str__(self) -> str:
        options = {
            "tag": self.tag or None,
            "columns": self.columns and ",".join(map(str, self.columns)),
            "max_words": self.max_words,
            "max_ratio": self.max_ratio,
            "deduplicate": self.deduplicate,
            "join": self.join or None,
            "swap": "true" if self.swap else None,
            "placeholders": self.placeholders,
            "filters": self.filters,
            "score_column": self.score_column,
            "scores": self.scores or None,
            "min_score": self.min_score,
        }
        name = '"' + self.name.replace('"', '""') + '"'
        weight = f" * {self.weight}" if self.weight != 1 else ""
        text = " ".join([*(f"{key}={value}" for key, value in options.items() if value is not None), *self.noise.split()])
        return f"{name}{weight} ({text})" if text else f"{name}{weight}"


def train_text(train: Any) -> Any:
    """`data.train` as text; as it is where it is neither text nor a list of sources.

    >>> train_text([TextSource("europarl"), TextSource("mined", 0.5)])
    '"europarl", "mined" * 0.5'
    """
    is_list = isinstance(train, list) and train and all(isinstance(source, TextSource) for source in train)
    return ", ".join(map(str, train)) if is_list else train
