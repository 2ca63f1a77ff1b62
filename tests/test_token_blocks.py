"""Tokenised text in blocks: an interrupted preparation goes on, several share the work, and the store is the same."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import letters

from transformer_jax.config import TokenizerConfig
from transformer_jax.data import encode_lines, encode_pairs, token_blocks
from transformer_jax.data import store as store_module
from transformer_jax.data.corpus import Pairs
from transformer_jax.data.noised_lines import Part, with_noise
from transformer_jax.data.store import is_tokenised_in_blocks, open_store, put_share_of_blocks
from transformer_jax.errors import UserError
from transformer_jax.storage.cache_folders import default_cache_dir
from transformer_jax.tokenization.subword_sampling import Sampling
from transformer_jax.tokenization.tokenizer import Tokenizer

CLEAN = Pairs(letters(330, 9), [line[::-1] for line in letters(330, 9, seed=1)])
NOISED = with_noise(CLEAN, [Part(150, {}, ""), Part(180, {"upper": 0.5}, "")])
KINDS = {
    "plain": (CLEAN, None),
    "sampled": (CLEAN, Sampling(2, 0.5)),
    "noised": (NOISED, None),
    "noised samples": (NOISED, Sampling(2, 0.5)),
}
BLOCKS = 6  # of a side, of 60 lines each and of 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    lines = [*CLEAN.source, *CLEAN.target]
    lines += [line.upper() for line in lines]
    return Tokenizer.train(lines, TokenizerConfig(vocab_size=290), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(encode_pairs, "_CHUNK", 20)
    monkeypatch.setattr(encode_pairs, "_BLOCK", 60)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The number of lines of each chunk that is encoded."""
    counts, encode = [], encode_lines._encode

    def count(tokenizer, side, text, sampled):
        counts.append(text.count(b"\n") + 1)
        return encode(tokenizer, side, text, sampled)

    monkeypatch.setattr(encode_lines, "_encode", count)
    return counts


@pytest.fixture
def straight(tokenizer, tmp_path, monkeypatch):
    """A function that gives the files of a kind's store, made without blocks."""

    def make(kind: str) -> dict[str, bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(encode_pairs, "_BLOCK", 10_000)
            return files_of(open_store(KINDS[kind][0], tokenizer, tmp_path / "straight", KINDS[kind][1]), tmp_path / "straight")

    return make


def files_of(store, cache: Path) -> dict[str, bytes]:
    """With the store's name in place of the folder."""
    return {"name": store.fingerprint} | {path.name: path.read_bytes() for path in (cache / store.fingerprint).iterdir()}


def blocks_in(cache: Path) -> list[Path]:
    return sorted((cache / "blocks").iterdir()) if (cache / "blocks").exists() else []


class Stopped(BaseException):
    pass


def stop_after(monkeypatch, blocks: int) -> None:
    """Raises when so many blocks have been put, in the middle of the next."""
    put = token_blocks.BlockFiles.put
    left = [blocks]

    def count(self, name, block):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        put(self, name, block)

    monkeypatch.setattr(token_blocks.BlockFiles, "put", count)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_preparation_goes_on_from_its_blocks(kind, tokenizer, straight, tmp_path, encoded, monkeypatch, caplog):
    pairs, sampling = KINDS[kind]
    cache, expected = tmp_path / "cache", straight(kind)
    samples = sampling.count if sampling else 1
    done = samples * BLOCKS + 2  # two blocks of the targets
    with monkeypatch.context() as patch:
        stop_after(patch, done)
        with pytest.raises(Stopped):
            open_store(pairs, tokenizer, cache, sampling)
    assert len(blocks_in(cache)) == done and [path.name for path in cache.iterdir()] == ["blocks"]
    encoded.clear()
    caplog.set_level("INFO", "transformer_jax")
    store = open_store(pairs, tokenizer, cache, sampling)
    before, total = samples * 330 + 2 * 60, 2 * samples * 330
    assert sum(encoded) == total - before
    assert f"tokenised before: {before:,} of {total:,} lines" in caplog.messages
    assert files_of(store, cache) == expected and blocks_in(cache) == []


def test_a_killed_preparation_goes_on_from_its_blocks(tokenizer, straight, tmp_path, encoded):
    expected = straight("plain")
    encoded.clear()
    program = f"""
import os, signal
from transformer_jax.data import encode_lines, encode_pairs
from transformer_jax.data.store import open_store, Pairs
from transformer_jax.tokenization.tokenizer import Tokenizer
encode_pairs._CHUNK, encode_pairs._BLOCK, encode, chunks = 20, 60, encode_lines._encode, []
def kill_in_the_end(*task):
    chunks.append(task)
    if len(chunks) == 17 + 8:  # the targets' third block
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*task)
encode_lines._encode = kill_in_the_end
open_store(Pairs(*{tuple(CLEAN)!r}), Tokenizer.load({str(tokenizer.folder)!r}), {str(tmp_path / "cache")!r})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL and len(blocks_in(tmp_path / "cache")) == BLOCKS + 2
    store = open_store(CLEAN, tokenizer, tmp_path / "cache")
    assert sum(encoded) == 330 - 2 * 60 and files_of(store, tmp_path / "cache") == expected
    assert blocks_in(tmp_path / "cache") == []


def change_a_bit(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "one bit": change_a_bit,
    "half written": lambda path, other: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, other: path.write_bytes(b""),
    "another block": lambda path, other: path.write_bytes(other.read_bytes()),
    "unreadable": lambda path, other: path.unlink() or path.mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_block_is_made_again(damage, tokenizer, straight, tmp_path, encoded, caplog):
    cache, expected = tmp_path / "cache", straight("plain")
    put_share_of_blocks(CLEAN, tokenizer, cache, None, 0, 1)
    encoded.clear()
    # Of the twelve, those of the last 30 lines are smaller.
    one, other = [path for path in blocks_in(cache) if path.stat().st_size > 700][:2]
    DAMAGES[damage](one, other)
    if damage == "unreadable":  # and in the way of the new one
        with pytest.raises(UserError, match=r"data\.cache_dir"):
            open_store(CLEAN, tokenizer, cache)
        one.rmdir()
    else:
        assert files_of(open_store(CLEAN, tokenizer, cache), cache) == expected
        assert sum(encoded) in (30, 60) and blocks_in(cache) == []
    assert f"{one}: " in caplog.text and "its lines are tokenised again" in caplog.text


def test_blocks_are_of_one_text_and_tokenizer_and_draw(tokenizer, tmp_path, encoded):
    """Whatever changes in what ids depend on, no block of before is taken."""
    for kind in KINDS:
        put_share_of_blocks(KINDS[kind][0], tokenizer, tmp_path, KINDS[kind][1], 0, 1)
    encoded.clear()
    other = Tokenizer.train(CLEAN.target, TokenizerConfig(vocab_size=276), tmp_path / "other")
    noised = with_noise(CLEAN, [Part(150, {}, ""), Part(180, {"upper": 0.4}, "")])
    for pairs, made_with, sampling in (
        (CLEAN, other, None),
        (CLEAN, tokenizer, Sampling(2, 0.4)),
        (noised, tokenizer, None),
        (Pairs(CLEAN.target, CLEAN.source), tokenizer, None),
    ):
        open_store(pairs, made_with, tmp_path, sampling)
        assert sum(encoded) == 660 * (sampling.count if sampling else 1)
        encoded.clear()
    open_store(Pairs(CLEAN.source, [*CLEAN.target[:-1], "a b"]), tokenizer, tmp_path)
    assert sum(encoded) == 30  # the last block of the targets


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_share_a_cache_share_the_work(kind, tokenizer, straight, tmp_path, encoded):
    (pairs, sampling), expected = KINDS[kind], straight(kind)
    encoded.clear()
    assert is_tokenised_in_blocks(pairs, tokenizer, tmp_path / "cache", sampling)
    counts = []
    for index in range(3):
        put_share_of_blocks(pairs, tokenizer, tmp_path / "cache", sampling, index, 3)
        counts.append(sum(encoded) - sum(counts))
    assert sum(counts) == 660 * (sampling.count if sampling else 1) and max(counts) - min(counts) <= 2 * 60
    assert files_of(open_store(pairs, tokenizer, tmp_path / "cache", sampling), tmp_path / "cache") == expected
    assert sum(encoded) == sum(counts) and blocks_in(tmp_path / "cache") == []
    assert not is_tokenised_in_blocks(pairs, tokenizer, tmp_path / "cache", sampling)


def test_the_first_tokenises_what_others_have_not(tokenizer, straight, tmp_path, encoded):
    expected = straight("noised samples")
    pairs, sampling = KINDS["noised samples"]
    put_share_of_blocks(pairs, tokenizer, tmp_path / "cache", sampling, 1, 2)
    theirs = len(blocks_in(tmp_path / "cache"))
    encoded.clear()
    assert files_of(open_store(pairs, tokenizer, tmp_path / "cache", sampling), tmp_path / "cache") == expected
    assert theirs == 2 * BLOCKS and sum(encoded) == 2 * 3 * 2 * 60


def test_little_text_keeps_no_blocks(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_pairs, "_BLOCK", 166)
    assert not is_tokenised_in_blocks(CLEAN, tokenizer, tmp_path, None)
    open_store(CLEAN, tokenizer, tmp_path)
    assert not (tmp_path / "blocks").exists()


def test_two_programs_at_once_make_the_same_store_and_leave_nothing(tokenizer, straight, tmp_path):
    expected, stores, cache = straight("plain"), [], tmp_path / "cache"
    threads = [threading.Thread(target=lambda: stores.append(open_store(CLEAN, tokenizer, cache))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [files_of(store, cache) for store in stores] == 6 * [expected]
    assert not [path for path in blocks_in(cache) if "partial" in path.name] and len(list(cache.iterdir())) == 2


def test_a_program_whose_blocks_another_removes_makes_them_again(tokenizer, straight, tmp_path, monkeypatch):
    expected, cache = straight("plain"), tmp_path / "cache"
    put_share_of_blocks(CLEAN, tokenizer, cache, None, 0, 1)
    get, taken = token_blocks.BlockFiles.get, []

    def remove_after(self, name):
        block = get(self, name)
        taken.append(block)
        if len(taken) == 3:
            self.remove([path.name for path in blocks_in(cache)])
        return block

    monkeypatch.setattr(token_blocks.BlockFiles, "get", remove_after)
    assert files_of(open_store(CLEAN, tokenizer, cache), cache) == expected
    assert [block is not None for block in taken] == 3 * [True] + 9 * [False] and blocks_in(cache) == []


def test_a_block_that_cannot_be_written_is_the_error_of_a_store_that_cannot(tokenizer, tmp_path):
    (tmp_path / "blocks").write_text("in the way")
    for tokenise in (
        lambda: open_store(CLEAN, tokenizer, tmp_path),
        lambda: put_share_of_blocks(CLEAN, tokenizer, tmp_path, None, 0, 2),
    ):
        with pytest.raises(UserError, match=r"cannot write the tokenised corpus .*; free space or set data\.cache_dir"):
            tokenise()
    assert [path.name for path in tmp_path.iterdir()] == ["blocks"]


def test_what_nobody_comes_back_for_is_removed_after_a_week(tokenizer, tmp_path):
    days = {}
    for age in (6, 8):
        for name in (f"blocks/{age}234", f"blocks/{age}234.partial-5", f"new.partial-{age}/ids.npy", f"new.partial-{age}"):
            path = tmp_path / name
            days[path] = age
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(b"")
            os.utime(path, (time.time() - age * 24 * 3600,) * 2)
    open_store(CLEAN, tokenizer, tmp_path)
    assert {path: path.exists() for path in days} == {path: age == 6 for path, age in days.items()}


def test_blocks_are_on_the_object_store_where_the_cache_is(tokenizer, straight, tmp_path, encoded, monkeypatch):
    """With a local folder for the bucket: hosts that have no disk in common share the work."""
    expected, bucket = straight("plain"), tmp_path / "bucket"
    (bucket / "blocks").mkdir(parents=True)
    for module in (store_module, token_blocks):
        monkeypatch.setattr(module, "is_remote", lambda path: str(path).startswith(str(bucket)))
    monkeypatch.setattr(store_module, "to_path", store_module.epath.Path)
    encoded.clear()
    for index in (1, 0):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {index}"))
        put_share_of_blocks(CLEAN, tokenizer, bucket, None, index, 2)
    assert len(blocks_in(bucket)) == 2 * BLOCKS and sum(encoded) == 660
    store = open_store(CLEAN, tokenizer, bucket)
    assert files_of(store, default_cache_dir()) == expected and sum(encoded) == 660 and blocks_in(bucket) == []
    assert np.array_equal(np.load(bucket / store.fingerprint / "source_ids.npy"), store.source_ids)
