"""The page of an evaluation: what is in the file, and what a browser makes of it."""

import json
import re
import subprocess

import pytest
from helpers import BROWSER, needs_browser

from transformer_jax.data.corpus import Pairs
from transformer_jax.errors import UserError
from transformer_jax.evaluation.analysis import analyse
from transformer_jax.evaluation.metrics import score
from transformer_jax.evaluation.report import Report
from transformer_jax.evaluation.significance import Comparison, differences
from transformer_jax.visualization.report_page import not_in_common, write_report_page

HOSTILE = "</script><script>document.title='taken'</script> <b>&amp;"
PAIRS = Pairs(
    ["A dog", HOSTILE, "\u05e9\u05dc\u05d5\u05dd two", ""], ["Ein Hund", "zwei drei", "\u05e9\u05dc\u05d5\u05dd zwei", ""]
)
OURS = ["Ein Hund", HOSTILE, "\u05e9\u05dc\u05d5\u05dd drei", ""]
OTHERS = ["Kein Hund", "zwei drei", "\u05e9\u05dc\u05d5\u05dd vier", "x"]


def page(folder, **changes) -> str:
    report = Report("set", "step 3", "greedy", 4, score(OURS, PAIRS.target, bootstrap=40), 0.5, 1.0, 2.0, hypotheses=OURS)
    report.analysis = analyse(OURS, PAIRS, {"zwei"}, "data/train", bootstrap=40)
    report.comparison = Comparison("another", differences(OURS, OTHERS, PAIRS.target), OTHERS)
    for name, value in ({"alignments": ["0-0 1-1", "", "0-0 1-1", ""]} | changes).items():
        setattr(report, name, value)
    write_report_page(folder / "page.html", "runs/mine", [report], [PAIRS])
    return (folder / "page.html").read_text(encoding="utf-8")


def test_sentences_come_as_they_are_and_never_as_markup(tmp_path):
    text = page(tmp_path)
    assert text.count("<script") == 2 and "taken" in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    (report,) = json.loads(data)["reports"]
    assert (report["source"], report["reference"]) == tuple(map(list, PAIRS))
    assert (report["hypothesis"], report["otherHypothesis"]) == (OURS, OTHERS)
    assert report["links"][0] == "0-0 1-1" and report["differences"][0]["metric"] == "BLEU"


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    text = page(tmp_path)
    assert "default-src 'none'" in text
    assert set(re.findall(r"\w+://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\s(src|href)=|@import|url\(", text)


def test_what_is_not_marked_is_on_both_sides():
    words, others = "der alte Hund schläft heute".split(), "heute schläft der Hund".split()
    extra, missing = not_in_common(words, others)
    assert [x for i, x in enumerate(words) if i not in extra] == [x for i, x in enumerate(others) if i not in missing]
    assert not_in_common(words, words) == ([], [])
    assert not_in_common([], words) == ([], [0, 1, 2, 3, 4])


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_report_page(tmp_path / "no" / "page.html", "", [], [])


@needs_browser
@pytest.mark.parametrize(
    "changes", [{}, {"alignments": None, "comparison": None, "no_interval": "too few"}], ids=["all", "without"]
)
def test_in_a_browser(changes, tmp_path):
    """Worst first, marked by words; scripts in sentences are text; the pictures have their figures; pointing shows links."""
    text = page(tmp_path, **changes)
    point = (
        "document.querySelectorAll('[data-word=t1]').forEach(x => x.dispatchEvent(new Event('pointerover', {bubbles: true})))"
    )
    (tmp_path / "page.html").write_text(text.replace("</body>", f"<script>{point}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    file = (tmp_path / "page.html").as_uri()
    dom = subprocess.run([*command, file], capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    assert "<title>Evaluation of runs/mine</title>" in dom
    body = dom.split('<tbody id="body">')[1].split("</tbody>")[0]
    assert re.findall(r"<tr><td>(\d+)</td>", body) == ["2", "3", "1", "4"]
    assert '<mark class="extra" data-word="t1">drei</mark>' in body or 'class="extra linked" data-word="t1">drei</mark>' in body
    assert '<mark class="missing" data-word="1">zwei</mark>' in body
    assert "&lt;/script&gt;&lt;script&gt;" in body and "<b>" not in body
    assert body.count('<dd dir="auto">') == (12 if changes else 16)
    assert body.count('linked"') == (0 if changes else 4)
    assert ("other system" in body) == (not changes) and ("from another" in dom) == (not changes)
    labels = re.findall(r'<svg[^>]*aria-label="([^"]*)"', dom)
    (meaning,) = re.findall(r'id="meaning">([^<]*)<', dom)
    assert meaning.endswith(" Of TER less is better.") and '<td data-name="BLEU">' in dom
    assert meaning.startswith("No interval: too few." if changes else "Below a difference is the probability of one as large")
    assert len(labels) == 4 and "never had. 0: " in labels[1] and "1: " in labels[1]
