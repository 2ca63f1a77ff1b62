"""Text to ids and back with SentencePiece. Every special id comes from the tokenizer: no module holds the literal 0 or 2."""

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import sentencepiece
from etils import epath

from transformer_jax.config import TokenizerConfig
from transformer_jax.errors import UserError
from transformer_jax.tokenization import normalization
from transformer_jax.tokenization.placeholders import PLACEHOLDERS
from transformer_jax.tokenization.shortlist import Shortlist
from transformer_jax.tokenization.special_ids import SpecialIds
from transformer_jax.tokenization.subword_sampling import make_sampler
from transformer_jax.tokenization.text_arguments import refuse_bare_text
from transformer_jax.tokenization.token_texts import Surfaces
from transformer_jax.tokenization.tokenizer_files import (
    ADDED,
    NORMALIZATION,
    SOURCE_BOS,
    SOURCE_EOS,
    SOURCE_VOCABULARY,
    SPECIAL_IDS,
    check_special_ids,
    copy_files,
    fingerprint_of,
    read_description,
    read_model,
    read_source_vocabulary,
    read_vocabulary,
    write_one_model,
    write_two_models,
)
from transformer_jax.tokenization.tokenizer_training import train_model
from transformer_jax.tokenization.vocabulary import Vocabulary
from transformer_jax.tokenization.word_table import FEW, SPACE, WordTable, encode_texts, user_defined, words_are_independent

__all__ = ["Tokenizer"]


class Tokenizer:
    """Encodes source and target text, decodes target ids.

    A folder holds it: `tokenizer.json` names the SentencePiece model of the source and of the target (one file, where the model
    was trained here), the list of the pieces by their embedding rows (none, where piece i is row i; another list for the source
    where it has a vocabulary of its own), the special ids, which are the same in both vocabularies, and the version of the
    normalisation of text (none in runs from before there was one, and for models that were not trained here).

    Attributes:
        folder: where it was read from
        vocab_size: rows of the embedding table: the pieces of the vocabulary, or else of the target's model
        source_vocab_size: the pieces of the source's vocabulary, or else of the source's model
        has_source_vocabulary: whether the source has a vocabulary of its own
        source_bos, source_eos: whether the ids of a source begin with BOS (only of imported models), and whether they end with
            EOS (always, but for imported models)
        pad_id, bos_id, eos_id, unknown_id: the special ids
        decoder_start_id: what the decoder sees before its first token
        normalizes: whether all text, in training and ever after, is normalised (`normalization.normalize`) before it is encoded
        fingerprint: SHA-256, in hex, of what the files say; equal fingerprints mean equal ids
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = folder = epath.Path(folder)
        description = read_description(folder)
        names = [description["source_model"], description["target_model"]]
        models = {name: read_model(folder / name) for name in dict.fromkeys(names)}
        self._source, self._target = (models[name][0] for name in names)
        self._tables = {model: WordTable(model) for model, data in models.values() if words_are_independent(data)}
        self._models = dict(models.values())
        self._sampler = functools.cache(make_sampler)
        special = [description[key] for key in SPECIAL_IDS]
        listed = description["vocabulary"]
        self._added, unwritten = (description.get(key, []) for key in ADDED)
        self._vocabulary: Vocabulary | None = None  # of the target, and of the source where it has none of its own
        self._source_vocabulary: Vocabulary | None = None
        if listed:
            self._vocabulary, pieces = read_vocabulary(folder / listed, special, description["unknown_id"], self._added)
            special += unwritten
            self._source_vocabulary = self._vocabulary
        self.vocab_size: int = len(self._vocabulary.pieces) if listed else self._target.get_piece_size()
        own = []
        self.has_source_vocabulary: bool = SOURCE_VOCABULARY in description
        if self.has_source_vocabulary:
            self._source_vocabulary, content = read_source_vocabulary(folder, description, self._vocabulary.pieces)
            own = [content]
        self.source_vocab_size: int = len(self._source_vocabulary.pieces) if listed else self._source.get_piece_size()
        self.source_bos: bool = description.get(SOURCE_BOS, False)
        self.source_eos: bool = description.get(SOURCE_EOS, True)
        self.pad_id: int = description["pad_id"]
        self.eos_id: int = description["eos_id"]
        self.unknown_id: int = description["unknown_id"]
        self.bos_id: int = description["bos_id"]
        self.decoder_start_id: int = description["decoder_start_id"]
        self.normalizes: bool = description.get(NORMALIZATION, 0) > 0
        check_special_ids(folder, description, self.vocab_size)
        # Not a set of ints: decode() looks up a table instead of asking for each id.
        self._special = np.zeros(self.vocab_size, bool)
        self._special[special + (self._vocabulary.without_piece if listed else [])] = True
        contents = [content for _, content in models.values()] + ([pieces] if listed else []) + own
        self.fingerprint: str = fingerprint_of(description, *contents)

    def __reduce__(self) -> tuple:
        return type(self), (self.folder,)  # to another process, which reads the same files

    @classmethod
    def train(
        cls, lines: Iterable[str], config: TokenizerConfig, folder: epath.PathLike, placeholders: bool = False
    ) -> "Tokenizer":
        """Trains one model for both languages on `lines` (all of the source's and all of the target's), writes it to `folder`
        and loads it.

        The model has pad 0, EOS 1, unknown 2, BOS 3, and the decoder starts with BOS. With `config.normalize` text is
        normalised (`normalization.normalize`), here and whenever it is encoded; else only runs of spaces become one space.
        Unlike SentencePiece's default, text is neither NFKC nor lower case: the references of translations are not either, and
        `½`, `…` or a ligature must come back as they were.

        Of more than two times `config.sample_lines` lines, so many with the smallest hashes are kept. The result does not
        depend on the order of the lines: they are sorted before SentencePiece sees them. With `placeholders` it has
        these pieces (`tokenization.placeholders`), too.

        Raises UserError if the corpus is too small for `config.vocab_size`, or has more characters than that; TypeError where
        `lines` is a string.
        """
        refuse_bare_text(lines, "lines")
        model = train_model(lines, config, PLACEHOLDERS if placeholders else ())
        ids = {"pad_id": 0, "eos_id": 1, "unknown_id": 2, "bos_id": 3, "decoder_start_id": 3}
        write_one_model(folder, model, ids, config.normalize)
        return cls(folder)

    @classmethod
    def of_models(
        cls,
        source: bytes,
        target: bytes,
        pieces: Sequence[str | None] | None,
        ids: dict[str, int],
        folder: epath.PathLike,
        added: Mapping[int, bool] | None = None,
        source_pieces: Sequence[str | None] | None = None,
        source_marks: tuple[bool, bool] = (False, True),
    ) -> "Tokenizer":
        """Writes a tokenizer of two SentencePiece models, and of the `pieces` of the embedding rows (None for a row without
        one), to `folder` and loads it. Where `pieces` is None the models are the same, and row i is its piece i.

        `ids` are pad_id, eos_id, unknown_id, bos_id and decoder_start_id; where there is no BOS, its id is that of EOS. `added`
        are the rows of pieces that are one piece wherever a text has them, and whether a translation leaves them out.
        `source_pieces` are those of the source where it has a vocabulary of its own, with padding, EOS and the unknown piece in
        the same rows; `source_marks` are `source_bos` and `source_eos`. Both need `pieces`.
        """
        if pieces is None:
            write_one_model(folder, source, ids)
        else:
            write_two_models(folder, source, target, pieces, ids, added, source_pieces, source_marks)
        return cls(folder)

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Tokenizer":
        """Reads what `train` or `of_models` wrote. Raises UserError if a file is missing or damaged."""
        return cls(folder)

    def copy_to(self, folder: epath.PathLike) -> None:
        """Copies its files to another folder. Raises UserError if they are gone."""
        copy_files(self.folder, folder)

    def normalized(self, lines: Sequence[str]) -> list[str]:
        """Each line as it is encoded: normalised (`normalization.normalize`) where `normalizes`, else as it is."""
        refuse_bare_text(lines, "lines")
        return list(map(normalization.normalize, lines)) if self.normalizes else list(lines)

    def visible(self, lines: Sequence[str]) -> list[str]:
        """As `normalized`, with all white space as it is."""
        refuse_bare_text(lines, "lines")
        return list(map(normalization.visible, lines)) if self.normalizes else list(lines)

    def encode_source(self, lines: Sequence[str], add_eos: bool = True) -> list[np.ndarray]:
        """The ids of each line, int32 [tokens], with `add_eos` EOS at the end. Text never becomes a special id: `</s>` in a
        line is four characters. Without `source_eos` only a line without any piece has EOS, so that no row is empty.

        "Ein Hund" -> [17, 230, 1]; "" -> [1]
        """
        rows = self._encode(lines, add_eos and self.source_eos, is_source=True)
        if not add_eos or (self.source_eos and not self.source_bos):
            return rows
        before = np.array([self.bos_id] * self.source_bos, np.int32)
        return [np.concatenate([before, row if len(row) else np.array([self.eos_id], np.int32)]) for row in rows]

    def encode_target(self, lines: Sequence[str], add_eos: bool = True) -> list[np.ndarray]:
        """As `encode_source`, for the target language."""
        return self._encode(lines, add_eos, is_source=False)

    def sample_source(self, lines: Sequence[str], alpha: float, seed: int) -> list[np.ndarray]:
        """As `encode_source`, segmented at random (see `make_sampler`): a function of the arguments, and of the same text.
        Raises UserError for a tokenizer that was not trained here.

        "Ein Hund" -> [17, 230, 1], or [17, 9, 41, 1], ...
        """
        return self._sample(self._source, lines, alpha, seed)

    def sample_target(self, lines: Sequence[str], alpha: float, seed: int) -> list[np.ndarray]:
        """As `sample_source`, for the target language."""
        return self._sample(self._target, lines, alpha, seed)

    def decode(self, rows: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """The text of each row of target ids, int [tokens], up to its first EOS; special ids (the unknown one, too) are
        dropped.

        [3, 17, 230, 1, 0, 0] -> "Ein Hund"
        """
        refuse_bare_text(rows, "rows", "rows of ids")
        texts = [self._text_ids(np.asarray(row)) for row in rows]
        if self._vocabulary:
            return [self._vocabulary.decode(self._target, ids) for ids in texts]
        return list(map(self._target.decode, texts)) if len(texts) <= FEW else self._target.decode(texts)

    def pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The piece of every id, special ones included, one to one: [17, 230, 1] -> ["▁Ein", "▁Hund", "</s>"]."""
        return self._pieces(self._target, ids)

    def source_pieces(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """As `pieces`, of the source's ids."""
        if self.has_source_vocabulary:
            refuse_bare_text(ids, "ids", "ids")
            return [self._source_vocabulary.pieces[int(i)] for i in ids]
        return self._pieces(self._source, ids)

    def vocabulary(self) -> dict[str, int]:
        """The row of every piece of the target; rows without a piece are left out."""
        unnamed = set(self._vocabulary.without_piece if self._vocabulary else [])
        pieces = self.pieces(range(self.vocab_size))
        return {piece: row for row, piece in enumerate(pieces) if row not in unnamed}

    def added_pieces(self) -> dict[int, bool]:
        """The rows of pieces that are one piece wherever a text has them, and whether a translation leaves them out."""
        return {row: bool(self._special[row]) for row in self._added}

    def models(self) -> tuple[bytes, bytes]:
        """The SentencePiece models of source and target, as they are in their files."""
        return self._models[self._source], self._models[self._target]

    @property
    def special_ids(self) -> SpecialIds:
        """The special ids as the searches take them."""
        never_generated = {self.bos_id, self.unknown_id} - {self.eos_id}
        return SpecialIds(self.decoder_start_id, self.eos_id, self.pad_id, tuple(sorted(never_generated)))

    @functools.cached_property
    def placeholder_ids(self) -> tuple[int, ...]:
        """The ids of the placeholders, in their order; none of a tokenizer that was not trained for text with them."""
        if self._vocabulary or self._target.piece_to_id(PLACEHOLDERS[0]) == self._target.unk_id():
            return ()
        return user_defined(self._models[self._target], PLACEHOLDERS)

    @functools.cached_property
    def shortlist(self) -> Shortlist | None:
        """The lexical table that `transformer-jax shortlist` has put into the folder; None where it has not."""
        return Shortlist.read(self.folder, self.source_vocab_size, self.vocab_size)

    @functools.cached_property
    def surfaces(self) -> Surfaces:
        """The text that each of the target's ids stands for."""
        pieces = self.pieces(range(self.vocab_size))
        texts = [b"" if self._special[i] else self._surface(piece) for i, piece in enumerate(pieces)]
        # The space at the beginning is taken away where it is SPACE, not where it is a byte.
        return Surfaces(texts, [i for i, piece in enumerate(pieces) if piece == "<0x20>"])

    def words(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """For each of the target's `ids` the number, from 0, of the word that it belongs to, int64 [tokens]: words as
        `str.split` finds them. -1 for special ids but the unknown one.

        ["▁Der", "▁Ele", "fant", ".", "</s>"] -> [0, 1, 1, 1, -1]
        """
        refuse_bare_text(ids, "ids", "ids")
        texts = [b"?" if i == self.unknown_id else self.surfaces.texts[int(i)] for i in ids]
        text, starts = b"".join(texts), [0, *itertools.accumulate(map(len, texts))][:-1]
        # Bytes that are no UTF-8 stand for themselves, so that places in the text are places in `starts`.
        line = text.decode("utf-8", errors="surrogateescape")
        ends = [len(line[: word.end()].encode("utf-8", errors="surrogateescape")) for word in re.finditer(r"\S+", line)]
        words = np.minimum(np.searchsorted(ends, starts, side="right"), len(ends) - 1)  # a space belongs to what follows it
        special = self._special[np.asarray(ids, np.int64)] & (np.asarray(ids) != self.unknown_id)
        return np.where(special, -1, words)

    def _surface(self, piece: str) -> bytes:
        if piece.startswith("<0x") and self._target.is_byte(self._target.piece_to_id(piece)):
            return bytes([int(piece[3:5], 16)])  # "<0xE2>"
        return piece.replace(SPACE, " ").encode()

    def _encode(self, lines: Sequence[str], add_eos: bool, *, is_source: bool) -> list[np.ndarray]:
        refuse_bare_text(lines, "lines")
        if not len(lines):
            return []
        lines = self.normalized(lines)
        model, vocabulary = (self._source, self._source_vocabulary) if is_source else (self._target, self._vocabulary)
        if vocabulary:
            return self._rows(*vocabulary.encode(model, lines), add_eos)
        if model in self._tables and not any(SPACE in line for line in lines):
            return self._rows(*self._tables[model].encode(lines), add_eos)
        encoded = encode_texts(model, lines)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return self._rows(np.fromiter(itertools.chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths, add_eos)

    def _sample(
        self, model: sentencepiece.SentencePieceProcessor, lines: Sequence[str], alpha: float, seed: int
    ) -> list[np.ndarray]:
        refuse_bare_text(lines, "lines")
        if not len(lines):
            return []
        if self._vocabulary:
            raise UserError("tokenizer.samples: only for tokenizers as they are trained here; set it to 0")
        lines = self.normalized(lines)
        return self._rows(*self._sampler(self._models[model], alpha).encode(lines, seed), True)

    def _pieces(self, model: sentencepiece.SentencePieceProcessor, ids: Sequence[int] | np.ndarray) -> list[str]:
        refuse_bare_text(ids, "ids", "ids")
        if self._vocabulary:
            return [self._vocabulary.pieces[int(i)] for i in ids]
        return [model.id_to_piece(int(i)) for i in ids]

    def _rows(self, flat: np.ndarray, lengths: np.ndarray, add_eos: bool) -> list[np.ndarray]:
        ends = np.cumsum(lengths)
        if add_eos:
            flat = np.insert(flat, ends, self.eos_id)
            ends += np.arange(1, len(ends) + 1)
        # Views: an array of its own for each line takes three times as long.
        return [flat[start:stop] for start, stop in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]

    def _text_ids(self, row: np.ndarray) -> list[int]:
        ends = np.flatnonzero(row == self.eos_id)
        row = row[: ends[0]] if len(ends) else row
        return row[~self._special[row]].tolist() if len(row) else []
