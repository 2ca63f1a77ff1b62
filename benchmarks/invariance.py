"""Does a sentence's translation depend on the other sentences of its batch?

    python benchmarks/invariance.py --workdir=runs/mine --test data/test

Translates the whole file at once, then `--batch_size` lines at a time, and compares texts and scores. Where two texts differ, a
NumPy search of the one sentence reports how near to a tie the closest decision was: float32 sums in another order differ by
some 1e-6.
"""

import math
import operator
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main, set_up

TIE = 1e-5


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--test", required=True, help="a test set, as for evaluate.py")
    parser.add_argument("--batch_size", nargs="+", type=int, default=[1, 7, 64], help="lines at a time")
    parser.add_argument("--beam", nargs="+", type=int, default=[1, 4])
    flags = parser.parse_args()
    if min(flags.batch_size + flags.beam) < 1:
        parser.error("--batch_size and --beam should be at least 1")
    set_up()
    import jax

    from transformer_jax import Translator
    from transformer_jax.data.corpus import read_pairs
    from transformer_jax.runs.run_folder import Run

    translator = Translator.load(flags.workdir, flags.checkpoint)
    data = Run(flags.workdir).config.data
    lines = read_pairs(flags.test, data.source_language, data.target_language).source
    print(f"{len(lines)} lines, {jax.local_device_count()} devices, computed in {translator.model.dtype}\n")
    print(
        "| beam | lines at a time | seconds | other texts | of these without a tie | other scores of the same text, at most |"
    )
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    notes = []
    for beam in flags.beam:
        together = translator.translate(lines, beam=beam)
        for size in flags.batch_size:
            start = time.perf_counter()
            parts = (translator.translate(lines[i : i + size], beam=beam) for i in range(0, len(lines), size))
            found = [each for part in parts for each in part]
            seconds = time.perf_counter() - start
            differ = [i for i, (a, b) in enumerate(zip(together, found, strict=True)) if a.text != b.text]
            ties = {i: nearest_tie(translator, lines[i], beam) for i in differ}
            apart = max((abs(a.score - b.score) for a, b in zip(together, found, strict=True) if a.text == b.text), default=0.0)
            clear = sum(tie > TIE for tie in ties.values())
            print(f"| {beam} | {size} | {seconds:.0f} | {len(differ)} | {clear} | {apart:.1e} |", flush=True)
            for i, tie in ties.items():
                notes.append(f"beam {beam}, {size} at a time, line {i + 1}: {tie:.1e} from a tie")
                notes += [f"    {each.score:.6f} {each.text}" for each in (together[i], found[i])]
    print("\n" + "\n".join(notes))


def nearest_tie(translator: Any, line: str, beams: int) -> float:
    """The smallest difference, over all steps, between a kept and a dropped hypothesis of a search for this line."""
    import jax
    import jax.numpy as jnp

    model, tokenizer, decode = translator.model, translator.tokenizer, translator.config
    ids = jnp.asarray(tokenizer.encode_source([line])[0])[None]
    limit = int(decode.max_length_ratio * ids.shape[1]) + decode.max_length_extra

    @jax.jit
    def begin(params):
        known = ids, jnp.ones_like(ids), jnp.arange(ids.shape[1])[None]
        memory = model.apply({"params": params}, *known, method="encode")
        return memory, model.apply({"params": params}, memory, beams, limit, method="init_cache")

    @jax.jit
    def step(params, token, index, memory, cache):
        logits, cache = model.apply({"params": params}, token, index, memory, cache, method="decode_step")
        return jax.nn.log_softmax(logits), cache

    memory, cache = begin(translator.params)
    never = {tokenizer.pad_id, tokenizer.decoder_start_id, tokenizer.bos_id, tokenizer.unknown_id} - {tokenizer.eos_id}
    tokens = np.full(beams, tokenizer.decoder_start_id)
    sums = np.where(np.arange(beams) == 0, 0.0, -np.inf)
    finished: list[float] = []
    gaps = [math.inf]
    for length in range(1, limit + 1):
        log_probs, cache = step(translator.params, jnp.asarray(tokens), length - 1, memory, cache)
        values = sums[:, None] + np.asarray(log_probs, np.float64)
        values[:, sorted(never)] = -np.inf
        order = np.argsort(-values, axis=None, kind="stable")[: 4 * beams + 1]
        parents, words = np.unravel_index(order, values.shape)
        values = values.reshape(-1)[order]
        ends = words == tokenizer.eos_id
        if ends[beams - 1] or ends[beams]:
            gaps.append(values[beams - 1] - values[beams])
        finished += (values[:beams][ends[:beams]] / ((5 + length) / 6) ** decode.length_penalty).tolist()
        finished.sort(reverse=True)
        on = np.flatnonzero(~ends)
        if beams > 1 or not ends[0]:
            gaps.append(values[on[beams - 1]] - values[on[beams]])
        kept = on[:beams]
        if finished and (beams == 1 or finished[0] >= values[kept[0]] / ((5 + limit) / 6) ** decode.length_penalty):
            break
        tokens, sums = words[kept], values[kept]
        cache = jax.tree.map(operator.itemgetter(parents[kept]), cache)
    return float(min([*gaps, *(-np.diff(finished[:2]))]))


if __name__ == "__main__":
    main(run)
