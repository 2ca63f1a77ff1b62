"""The paper's variations of Transformer base (Vaswani et al. 2017, Table 3), each as what it changes in `transformer_base.py`.

    transformer-jax train --config=transformer_table3:C-N2 --workdir=runs/C-N2
    transformer-jax evaluate --workdir=runs/C-N2 --checkpoint=latest --test sacrebleu:wmt13

Without a row it names them all. The paper's figures are those of newstest2013, beam 4, length penalty 0.6, the last checkpoint
alone, BLEU of tokenised text with compounds split; perplexity is of its own word pieces, so compare it between rows only.
None is trained here yet. Hardware: as `transformer_base.py`.
"""

from typing import NamedTuple

from transformer_jax.config import Config, override
from transformer_jax.errors import UserError
from transformer_jax.recipes import transformer_base


class Row(NamedTuple):
    changes: dict[str, str]
    perplexity: float
    bleu: float
    parameters: int | None = None  # millions; None where the paper leaves it out, as it is that of base


ROWS = {
    "base": Row({}, 4.92, 25.8, 65),
    # heads, with the sum of their widths kept
    "A-h1": Row({"model.heads": "1"}, 5.29, 24.9),
    "A-h4": Row({"model.heads": "4"}, 5.00, 25.5),
    "A-h16": Row({"model.heads": "16"}, 4.91, 25.8),
    "A-h32": Row({"model.heads": "32"}, 5.01, 25.4),
    # the width of queries and keys, that of values kept
    "B-dk16": Row({"model.key_width": "16", "model.value_width": "64"}, 5.16, 25.1, 58),
    "B-dk32": Row({"model.key_width": "32", "model.value_width": "64"}, 5.01, 25.4, 60),
    # size
    "C-N2": Row({"model.num_layers": "2"}, 6.11, 23.7, 36),
    "C-N4": Row({"model.num_layers": "4"}, 5.19, 25.3, 50),
    "C-N8": Row({"model.num_layers": "8"}, 4.88, 25.5, 80),
    "C-d256": Row({"model.width": "256"}, 5.75, 24.5, 28),
    "C-d1024": Row({"model.width": "1024"}, 4.66, 26.0, 168),
    "C-ff1024": Row({"model.feed_forward_width": "1024"}, 5.12, 25.4, 53),
    "C-ff4096": Row({"model.feed_forward_width": "4096"}, 4.75, 26.2, 90),
    # regularisation
    "D-dropout0": Row({"model.dropout": "0.0"}, 5.77, 24.6),
    "D-dropout2": Row({"model.dropout": "0.2"}, 4.95, 25.5),
    "D-smoothing0": Row({"train.label_smoothing": "0.0"}, 4.67, 25.3),
    "D-smoothing2": Row({"train.label_smoothing": "0.2"}, 5.47, 25.7),
    "E-learned": Row({"model.positions": "learned"}, 4.92, 25.7),
    "big": Row(
        {
            "model.width": "1024",
            "model.feed_forward_width": "4096",
            "model.heads": "16",
            "model.dropout": "0.3",
            "train.steps": "300000",
        },
        4.33,
        26.4,
        213,
    ),
}


def get_config(row: str = "") -> Config:
    if row not in ROWS:
        raise UserError(f"transformer_table3:{row}: there is no such row of the table; there are {', '.join(ROWS)}")
    config = transformer_base.get_config()
    for key, value in ROWS[row].changes.items():
        override(config, key, value)
    return config
