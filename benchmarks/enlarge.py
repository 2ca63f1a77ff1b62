"""Repeats a corpus a given number of times, to measure how time and memory grow.

    python benchmarks/enlarge.py MIXED/train 13 BIG      reads MIXED/train.en and .de, writes BIG.en and BIG.de

In every copy but the first one word of each side is replaced by the first word of another line, so that few pairs are the same.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.cli.parser import Parser
from transformer_jax.cli.program import main
from transformer_jax.errors import UserError
from transformer_jax.storage.text_files import open_output, read_lines


def run() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("corpus", help="the prefix of the files to read, up to their .en and .de")
    parser.add_argument("copies", type=int, help="how many times over, the first included")
    parser.add_argument("output", help="the prefix of the files to write")
    flags = parser.parse_args()
    if flags.copies < 1:
        raise UserError(f"copies={flags.copies} should be at least 1")
    if Path(f"{flags.output}.en").resolve() == Path(f"{flags.corpus}.en").resolve():
        raise UserError(f"{flags.output}: is the corpus itself; name another output")
    for language in ("en", "de"):
        lines, draw = read_lines(f"{flags.corpus}.{language}"), random.Random(0)
        with open_output(f"{flags.output}.{language}") as file:
            file.writelines(f"{line}\n" for line in lines)
            for _ in range(flags.copies - 1):
                for line in lines:
                    words = line.split(" ")
                    words[draw.randrange(len(words))] = draw.choice(lines).split(" ")[0]
                    file.write(" ".join(words) + "\n")


if __name__ == "__main__":
    main(run)
