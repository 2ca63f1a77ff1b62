"""How good are translations? Three boards; each is one command that trains, scores and prints its row.

    python benchmarks/leaderboard.py minutes --data=MULTI30K --output=runs/minutes
    python benchmarks/leaderboard.py captions --data=MULTI30K/lc_norm_tok --output=runs/captions
    python benchmarks/leaderboard.py news --data=MIXED --output=runs/news

`minutes` asks how long the recipe `multi30k` takes from the command to 38.0 BLEU on val, with nothing compiled or prepared
before; `captions`, what three seeds of `multi30k_literature` have in the literature's metric; `news`, what `mixed` has on
newstest2013 when it ends. The dev set is scored each time, the test set with `--test` alone: what is tried is chosen by the dev
set, and the test set is looked at once for a row. `--config.SECTION.KEY=VALUE` tries another setting.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from outputs import make_folder

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError

PROGRAM = [sys.executable, "-m", "transformer_jax"]


class Board(NamedTuple):
    """A recipe, its text below the folder of `--data`, and how its best model is scored."""

    recipe: str
    dev: str
    test: str
    seeds: int
    scoring: tuple[str, ...] = ()  # flags of `evaluate`


LITERATURE = ("--checkpoint=average:10", "--tokenize=none")
BOARDS = {
    "minutes": Board("multi30k", "val", "test_2016_flickr", 1),
    "captions": Board("multi30k_literature", "val", "test_2016_flickr", 3, LITERATURE),
    "news": Board("mixed", "dev", "", 1),
}


class Training(NamedTuple):
    """What a training took and reached."""

    minutes: float  # from the command to its end
    updates: int
    to_goal: float | None  # minutes from the command to the first evaluation with the goal's score; None: not reached


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("board", choices=BOARDS)
    parser.add_argument("--data", required=True, type=Path, help="the folder of the board's text")
    parser.add_argument("--output", required=True, type=Path, help="the run folders, SEED, are made here")
    parser.add_argument("--seeds", type=int, help="how many, from train.seed=0 on (default: the board's)")
    parser.add_argument("--goal", type=float, help="of the board minutes: BLEU on the dev set (default: 38)")
    parser.add_argument("--test", action="store_true", help="score the test set too")
    flags, overrides = parser.parse_with_overrides()
    board = BOARDS[flags.board]
    if flags.seeds is not None and flags.seeds < 1:
        parser.error(f"--seeds={flags.seeds} should be at least 1")
    if flags.goal is not None and flags.board != "minutes":
        raise UserError(f"--goal: only the board minutes has one, not {flags.board}; leave it out")
    if flags.test and not board.test:
        raise UserError(f"--test: the board {flags.board} has no test set here; leave it out")
    sets = [f"{flags.data}/{name}" for name in (board.dev, board.test)[: 1 + flags.test]]
    goal = (38.0 if flags.goal is None else flags.goal) if flags.board == "minutes" else None
    columns = [
        "seed",
        *([f"minutes to {goal:g}"] if goal is not None else []),
        "minutes",
        "updates",
        *map(os.path.basename, sets),
    ]
    print(f"| {' | '.join(columns)} |\n|{'---:|' * len(columns)}", flush=True)
    scores = []
    for seed in range(flags.seeds or board.seeds):
        workdir = make_folder(flags.output) / str(seed)
        own = [f"data.train={flags.data}/train", f"data.dev={flags.data}/{board.dev}", f"train.seed={seed}", *overrides]
        training = train(board.recipe, workdir, own, goal)
        scores.append(score(workdir, sets, board.scoring))
        reached = "not reached" if training.to_goal is None else f"{training.to_goal:.1f}"
        cells = [f"{seed}", *([reached] if goal is not None else []), f"{training.minutes:.1f}", f"{training.updates:,}"]
        print(f"| {' | '.join([*cells, *(f'{bleu:.2f}' for bleu in scores[-1])])} |", flush=True)
    if len(scores) > 1:
        for name, values in zip(columns[-len(sets) :], zip(*scores, strict=True), strict=True):
            deviation = statistics.stdev(values)
            print(f"\n{name}: mean {statistics.mean(values):.2f}, standard deviation {deviation:.2f} of {len(values)} seeds")


def train(recipe: str, workdir: Path, overrides: list[str], goal: float | None) -> Training:
    """Trains with empty caches."""
    if workdir.exists():
        raise UserError(f"{workdir}: is there already; name another folder, or a training's minutes would not be all of them")
    command = [*PROGRAM, "train", f"--config={recipe}", f"--workdir={workdir}", *(f"--config.{item}" for item in overrides)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {"XDG_CACHE_HOME": cache, "JAX_COMPILATION_CACHE_DIR": f"{cache}/compiled"}
        started = time.time()
        _call(command, environment)
        seconds = time.time() - started
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    reached = [line["time"] - started for line in lines if line["split"] == "dev" and goal is not None and line["bleu"] >= goal]
    return Training(seconds / 60, lines[-1]["step"], reached[0] / 60 if reached else None)


def score(workdir: Path, sets: list[str], flags: tuple[str, ...]) -> list[float]:
    """BLEU on each of the sets."""
    report = workdir / "leaderboard.json"
    _call([*PROGRAM, "evaluate", f"--workdir={workdir}", "--bootstrap=0", f"--report={report}", *flags, "--test", *sets], {})
    return [
        next(score["value"] for score in of_set["scores"] if score["metric"] == "BLEU")
        for of_set in json.loads(report.read_text(encoding="utf-8"))
    ]


def _call(command: list[str], environment: dict[str, str]) -> None:
    """Runs another process, whose log goes to standard error. If it ends with an error, so does this one."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths} | environment, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode if done.returncode > 0 else 1)


if __name__ == "__main__":
    main(run)
