"""Texts as 64-bit numbers: to find equal ones among many, to draw some of them, and to keep them without telling them."""

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["text_hashes"]


def text_hashes(texts: Iterable[str]) -> np.ndarray:
    """BLAKE2b's hash of 8 bytes of the UTF-8 of each text, least significant byte first, uint64 [texts].

    >>> text_hashes(["a", "b", "a"]).tolist() == [text_hashes([text])[0] for text in "aba"]
    True
    """
    digests = b"".join([hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, "<u8").astype(np.uint64)
