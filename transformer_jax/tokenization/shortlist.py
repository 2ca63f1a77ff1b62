"""Of each source piece, the target pieces that it may become: what a search chooses among, instead of the whole vocabulary."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.storage.files import read_plain, write_whole
from transformer_jax.tokenization.special_ids import SpecialIds

__all__ = ["LOCAL_IDS", "SHORTLIST", "Shortlist"]

SHORTLIST = "shortlist.npz"  # the file's name in a tokenizer's folder
# A search over candidates calls them by their places in `Shortlist.rows`, of which the first three are EOS, start and pad.
LOCAL_IDS = SpecialIds(start=1, eos=0, pad=2)
_LARGEST = 1 << 28  # bytes, unpacked too; 37,000 pieces have 19 million


class Shortlist(NamedTuple):
    """A lexical table (`data.lexical_table`), as it is kept in the folder of the tokenizer whose pieces it is about.

    >>> table = Shortlist(np.array([7, 8]), np.array([[5, 9, -1], [7, 6, 5]]))
    >>> table.candidates(np.array([0, 1]), each=1).tolist(), table.candidates(np.array([0, 1]), each=2).tolist()
    ([7, 8, 5, 9], [7, 8, 5, 9, 6])
    """

    frequent: np.ndarray  # int32 [F]: candidates of every sentence
    likely: np.ndarray  # int32 [source pieces, R]: of each source piece, the most likely first; -1 where there are no more

    def candidates(self, ids: Sequence[int] | np.ndarray, each: int) -> np.ndarray:
        """The candidates of a sentence with these source pieces, at most F + `each` * len(ids), int32: the frequent ones, then
        the most likely one of each piece, then the second of each, and so on, none twice."""
        ranked = self.likely[np.asarray(ids)].T.reshape(-1)
        all_of_them = np.concatenate([self.frequent, ranked[ranked >= 0]])
        _, first = np.unique(all_of_them, return_index=True)
        return all_of_them[np.sort(first)][: len(self.frequent) + each * len(ids)].astype(np.int32)

    def rows(self, sources: Sequence[np.ndarray], length: int, each: int, ids: SpecialIds) -> np.ndarray:
        """The candidates of sentences of at most `length` source pieces, int32 [B, C], where C depends on `length` and `each`
        alone. The first three are those of `LOCAL_IDS`; ~i stands for i where i is never generated, as for what fills a row."""
        room = -(-(3 + len(self.frequent) + each * length) // 64) * 64  # whole blocks of `decoding.top_candidates`
        rows = np.full((len(sources), room), ~ids.pad, np.int32)
        rows[:, :2] = ids.eos, ~ids.start
        never = {ids.start, ids.eos, ids.pad, *ids.never_generated}
        for row, source in zip(rows, sources, strict=True):
            found = self.candidates(source, each)
            found = found[~np.isin(found, list(never))]
            row[3 : 3 + len(found)] = found
        return rows

    def write(self, folder: epath.PathLike) -> None:
        """Writes the file into a tokenizer's folder, whole."""
        content = io.BytesIO()
        np.savez_compressed(content, frequent=self.frequent.astype(np.int32), likely=self.likely.astype(np.int32))
        write_whole(epath.Path(folder) / SHORTLIST, content.getvalue())

    @classmethod
    def read(cls, folder: epath.PathLike, source_pieces: int, target_pieces: int) -> "Shortlist | None":
        """The table in a tokenizer's folder; None where there is none. Raises UserError if it is damaged, or is about other
        numbers of pieces."""
        path = epath.Path(folder) / SHORTLIST
        try:
            with np.load(io.BytesIO(read_plain(path, _LARGEST)), allow_pickle=False) as arrays:
                if sum(member.file_size for member in arrays.zip.infolist()) > _LARGEST:
                    raise ValueError("more than there is to say")
                table = cls(arrays["frequent"], arrays["likely"])
            sizes = table.frequent.ndim, table.likely.ndim, len(table.likely)
            fits = all(part.dtype == np.int32 and (part < target_pieces).all() for part in table)
            if sizes != (1, 2, source_pieces) or not fits or (table.frequent < 0).any() or (table.likely < -1).any():
                raise ValueError("other numbers")
        except FileNotFoundError:
            return None
        except Exception:  # zipfile, zlib and NumPy raise many types for damaged files
            raise UserError(f"{path}: damaged; make it again (transformer-jax shortlist), or remove it") from None
        return table
