"""The story's pages (docs/story): their notebook is that of today, their code runs, and what it gives is shown."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_hook():
    spec = importlib.util.spec_from_file_location("story_hook", ROOT / "docs" / "story_hook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


story = load_hook()


def test_every_page_is_one_of_the_story():
    assert {path.stem for path in story.FOLDER.glob("*.md")} == set(story.PAGES)


def test_the_notebook_is_that_of_the_pages():
    assert story.NOTEBOOK.read_text(encoding="utf-8") == story.notebook(), "python docs/story_hook.py notebook"


def test_the_notebook_has_the_text_and_the_code_in_order():
    cells = json.loads(story.notebook())["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    blocks = [block for name in story.PAGES for block in story.BLOCK.findall(story.page_text(name))]
    assert code == [block.strip() for block in blocks]


def test_a_block_gives_what_it_prints_its_last_value_its_pictures_and_its_pages(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    code = (
        "from matplotlib import pyplot\nfrom pathlib import Path\nfigure, axes = pyplot.subplots(num='a line')\n"
        "axes.plot([1, 2])\nPath('page.html').write_text('')\nprint('printed')\n{'last': 1}\n"
    )
    names = {}
    output = story.run_block(code, names, "page_1")
    assert output.text == "printed\n{'last': 1}\n"
    ((picture, shown),) = output.pictures
    assert shown == "a line" and "<svg" in Path(picture).read_text(encoding="utf-8")
    assert output.pages == ["page.html"] and "figure" in names
    markdown = story.as_markdown(output)
    assert "printed\n{'last': 1}\n```" in markdown and f"![a line]({picture})" in markdown and 'src="page.html"' in markdown


def test_a_block_whose_last_value_has_a_form_for_notebooks_shows_that(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    code = "class Table:\n    def _repr_html_(self):\n        return '<table></table>'\nTable()\n"
    output = story.run_block(code, {}, "page_1")
    assert output.html == "<table></table>" and output.text == ""
    assert "<table></table>" in story.as_markdown(output)


def test_a_semicolon_at_the_end_keeps_the_last_value_back(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    assert story.run_block("1 + 1;\n", {}, "page_1").text == "" and story.run_block("1 + 1\n", {}, "page_1").text == "2\n"


def test_trainings_are_shortened_where_it_is_asked_for(monkeypatch):
    code = "config.train.steps = 600\nother.steps = 5\nlines[:400] + more[:2]\n"
    monkeypatch.delenv("STORY_STEPS", raising=False)
    assert story.shortened(code) == code
    monkeypatch.setenv("STORY_STEPS", "2")
    assert story.shortened(code) == "config.train.steps = 2\nother.steps = 5\nlines[:60] + more[:2]\n"


@pytest.mark.slow
def test_all_pages_run_with_trainings_of_two_updates(tmp_path):
    folder = tmp_path / "made"
    command = [sys.executable, str(ROOT / "docs" / "story_hook.py"), "run", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "STORY_STEPS": "2"})
    outputs = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
    assert list(outputs) == list(story.PAGES)
    for name in story.PAGES:
        assert len(outputs[name]) == len(story.BLOCK.findall(story.page_text(name)))
        assert any(text or pictures for text, _, pictures, _ in outputs[name]), name
        assert not any(" object at 0x" in text for text, *_ in outputs[name]), name
