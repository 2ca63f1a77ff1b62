"""Runs the story's pages (docs/story) when the documentation is built, and shows below each block of code what it gave.

The blocks of Python of all pages, in the order of `PAGES`, are the cells of one notebook: they share their names. Below a
block stand what it printed, the value of its last line, its pictures (matplotlib) and the HTML files that it wrote. mkdocs has
this file as a hook. The pages run once and again whenever their code or the package changes; what they gave is kept in
build/story. As a script,

    python docs/story_hook.py notebook            writes the notebook of the pages, docs/story/story.ipynb
    python docs/story_hook.py run FOLDER          runs the pages and writes what they gave to FOLDER

STORY_STEPS=2 makes every training that many updates long, and takes 60 sentences where a page takes a hundred or more: so short
a run finds code that no longer works. STORY_STEPS=0 shows the pages without running them.
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "story"
NOTEBOOK = FOLDER / "story.ipynb"
PAGES = ("one_vector", "attention", "queries_keys_values", "heads_and_positions", "transformer")
KEPT = ROOT / "build" / "story"
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


class Output(NamedTuple):
    """What one block gave."""

    text: str  # printed, and the value of its last line
    html: str  # the value of its last line, if it has a form for notebooks
    pictures: list[tuple[str, str]]  # file name and what the picture shows
    pages: list[str]  # HTML files that it wrote


def page_text(name: str) -> str:
    """The Markdown of a page."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' hook: the pages are run, and the files that they made belong to the site."""
    from mkdocs.structure.files import File

    for file in sorted(_made().iterdir()) if _are_run() else ():
        if file.is_file() and file.name != "outputs.json":
            files.append(File.generated(config, f"story/{file.name}", content=file.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs' hook: a page of the story, with what its blocks gave."""
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder != "story" or name not in PAGES or not _are_run():
        return markdown
    outputs = iter(json.loads((_made() / "outputs.json").read_text(encoding="utf-8"))[name])
    return BLOCK.sub(lambda block: block[0] + as_markdown(Output(*next(outputs))), markdown)


def as_markdown(output: Output) -> str:
    """What is inserted below a block."""
    parts = [f"``` {{.text .output}}\n{output.text}```\n"] if output.text else []
    parts += [f'<div class="story-output">{output.html}</div>\n'] if output.html else []
    parts += [f"![{shown}]({name})\n" for name, shown in output.pictures]
    parts += [f'<iframe class="story-page" src="{name}" title="{name}"></iframe>\n' for name in output.pages]
    return "".join(f"\n{part}" for part in parts)


def notebook() -> str:
    """The pages as a notebook without outputs, in Jupyter's format 4."""
    cells = []
    for name in PAGES:
        for number, part in enumerate(BLOCK.split(page_text(name))):
            if part.strip():
                extra = {"execution_count": None, "outputs": []} if number % 2 else {}
                kind = "code" if number % 2 else "markdown"
                cell = {"cell_type": kind, "id": f"{name}-{number}", "metadata": {}, **extra}
                cells.append({**cell, "source": part.strip().splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def run(folder: Path) -> None:
    """Runs all blocks and writes to `folder` outputs.json, the `Output` of each block by page, and the files that it names."""
    import matplotlib

    matplotlib.use("agg")
    if "STORY_STEPS" in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling takes half the time
    sys.path.insert(0, str(ROOT))
    folder.mkdir(parents=True)
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "story"}
    sys.modules["story"] = type(sys)("story")
    outputs = {}
    for name in PAGES:
        started = time.perf_counter()
        blocks = [shortened(block) for block in BLOCK.findall(page_text(name))]
        outputs[name] = [run_block(block, names, f"{name}_{number}") for number, block in enumerate(blocks, 1)]
        print(f"docs/story/{name}.md: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    (folder / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")


def shortened(code: str) -> str:
    """The code with trainings of STORY_STEPS updates and sets of 60 sentences, if that is set."""
    steps = os.environ.get("STORY_STEPS")
    return re.sub(r"\[:\d{3}\]", "[:60]", re.sub(r"(train\.steps = )\d+", rf"\g<1>{steps}", code)) if steps else code


def run_block(code: str, names: dict[str, Any], label: str) -> Output:
    """Runs one block among `names`, in the working directory. Pictures are named after `label`."""
    from matplotlib import pyplot

    tree = ast.parse(code)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    before = set(Path().glob("*.html"))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, label, "exec"), names)
        value = eval(compile(last, label, "eval"), names) if last else None
    value = None if code.rstrip().endswith(";") else value  # as in a notebook
    as_html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
    text = printed.getvalue() + (f"{value!r}\n" if value is not None and not as_html else "")
    pictures = []
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        figure.savefig(f"{label}_{number}.svg", metadata={"Date": None})
        pictures.append((f"{label}_{number}.svg", figure.get_label()))
        pyplot.close(figure)
    return Output(text, as_html, pictures, sorted(str(file) for file in set(Path().glob("*.html")) - before))


def _are_run() -> bool:
    return os.environ.get("STORY_STEPS") != "0"


def _made() -> Path:
    """The folder with what the pages gave, made now if their code or the package has changed since."""
    kinds = "py", "html", "css", "js"
    package = [file for kind in kinds for file in sorted((ROOT / "transformer_jax").rglob(f"*.{kind}"))]
    contents = b"".join(source.read_bytes() for source in (*package, Path(__file__)))
    code = "".join(shortened(block) for name in PAGES for block in BLOCK.findall(page_text(name)))
    folder = KEPT / hashlib.sha256(contents + code.encode()).hexdigest()[:16]
    if not (folder / "outputs.json").exists():
        scratch = KEPT / f"{folder.name}-{os.getpid()}"
        print("docs/story runs, which takes minutes (STORY_STEPS=2: a short try)", file=sys.stderr)
        subprocess.run([sys.executable, __file__, "run", str(scratch)], check=True, cwd=ROOT)
        shutil.rmtree(scratch / "runs", ignore_errors=True)
        scratch.rename(folder)
    return folder


if __name__ == "__main__":
    if sys.argv[1:] == ["notebook"]:
        NOTEBOOK.write_text(notebook(), encoding="utf-8")
    elif sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
        run(Path(sys.argv[2]).resolve())
    else:
        raise SystemExit(__doc__)
