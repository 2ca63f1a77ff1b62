"""A corpus as many times over as is asked for, to see how things grow.

    python benchmarks/enlarge.py MIXED/train 13 BIG      reads MIXED/train.en and .de, writes BIG.en and BIG.de

In every copy but the first one word of each side is replaced by the first word of another line, so that few pairs are the same.
"""

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformer_jax.data.lines import open_output, read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("copies", type=int)
    parser.add_argument("output")
    flags = parser.parse_args()
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
    main()
