"""A test set under each noise: what is scored against what, and the table."""

import dataclasses

import pytest
from helpers import write_tsv

from transformer_jax.cli.evaluation_files import robustness_tables
from transformer_jax.cli.evaluation_job import EvaluationJob
from transformer_jax.config import DataConfig
from transformer_jax.data.corpus import Pairs, read_pairs
from transformer_jax.data.noise import NOISES, changes_target
from transformer_jax.errors import UserError
from transformer_jax.evaluation.metrics import Score
from transformer_jax.evaluation.report import Report
from transformer_jax.evaluation.robustness import NoisedSet, Robustness, as_table, noised_sets


def test_all_noises_that_change_a_line(tmp_path):
    name = write_tsv(
        tmp_path / "t.tsv", ["the old dog ran across the long street at last.", ""], ["Der Hund rannte endlich.", ""]
    )
    plain, *noised = noised_sets(name, DataConfig(), [])
    assert plain == NoisedSet(name, read_pairs(name, "en", "de"), name, "none", 0)
    assert [each.noise for each in noised] == [noise for noise in NOISES if noise not in ("quotes", "lower")]
    for each in noised:
        assert each.name == f"{name} ({each.noise})" and each.pairs == read_pairs(each.name, "en", "de")
        assert (each.plain, each.changed) == (name, 1)
        assert (each.pairs.target != plain.pairs.target) == changes_target(each.noise)


def test_a_tag_and_a_noise_of_the_set_stay(tmp_path):
    name = write_tsv(tmp_path / "t.tsv", ["the dog"], ["der Hund"]) + " (tag=<x> emoji)"
    plain, capitals = noised_sets(name, DataConfig(), ["upper"])
    assert capitals.name == name[:-1] + " upper)" and capitals.pairs == Pairs(
        ["<x> " + plain.pairs.source[0].removeprefix("<x> ").upper()], [plain.pairs.target[0].upper()]
    )
    assert [each.noise for each in noised_sets(f"{name[:-1]} upper)", DataConfig(), ["upper", "title"])] == ["none"]


def test_an_unknown_noise_is_refused():
    with pytest.raises(UserError, match=r"--robustness: uper is none of the noises .* \(did you mean upper\?\)"):
        EvaluationJob(workdir="x", test=["y"], robustness=["uper"])


def test_a_table_for_each_set_and_checkpoint():
    def report(test: str, checkpoint: str, *row) -> Report:
        robustness = Robustness(*row) if row else None
        return Report(test, checkpoint, "greedy", 2, [Score("BLEU", 1.0, "", "")], 0.5, 1.0, 1.0, robustness=robustness)

    plain, upper = ("v", "none", 0, "as they are", 30.0, 50.0, 0.0, 1), ("v", "upper", 9, "changed alike", 28.5, 49.0, -1.5, 12)
    reports = [report("v", "step 1", *plain), report("v (upper)", "step 1", *upper), report("v", "step 2", *plain)]
    first, second = robustness_tables(reports)
    assert first == "step 1, " + as_table([Robustness(*plain), Robustness(*upper)]) and second.startswith("step 2, v")
    assert [line.split() for line in first.split("\n")[2:]] == [
        "none 30.00 +0.00 50.00 1 0 as they are".split(),
        "upper 28.50 -1.50 49.00 12 9 changed alike".split(),
    ]
    assert robustness_tables([report("v", "step 1")]) == []
    assert dataclasses.asdict(reports[1])["robustness"]["difference"] == -1.5
