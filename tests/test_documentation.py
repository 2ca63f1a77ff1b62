"""The pages of `make docs` leave nothing out: every public module is on one of them, every public name has a docstring."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import transformer_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "transformer_jax"
INDEX = ROOT / "docs" / "api" / "index.md"
PAGES = sorted(page for folder in ("api", "inside") for page in (ROOT / "docs" / folder).glob("*.md"))


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def public_names(file: Path) -> list[str] | None:
    """What `__all__` lists, None where there is none."""
    for node in tree_of(file).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PUBLIC = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py")) if public_names(file) is not None}


def undocumented(file: Path) -> Iterator[str]:
    """Public names without docstring; of a constant, without a comment. `setup` is no method that anybody calls."""
    lines = file.read_text(encoding="utf-8").splitlines()
    names, module = set(public_names(file)), name_of(file)
    for node in tree_of(file).body:
        if isinstance(node, ast.Assign) and names & {ast.unparse(target) for target in node.targets}:
            if "  # " not in lines[node.end_lineno - 1] and not lines[node.lineno - 2].startswith("# "):
                yield f"{module}: {lines[node.lineno - 1]}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            methods = [each for each in node.body if isinstance(node, ast.ClassDef) and isinstance(each, ast.FunctionDef)]
            called = [each for each in methods if not each.name.startswith("_") or each.name == "__call__"]
            for each in (node, *(each for each in called if each.name != "setup")):
                if not ast.get_docstring(each):
                    yield f"{module}.{node.name}: {each.name}"


def test_every_public_module_is_on_one_page():
    found = Counter(re.findall(r"^::: (\S+)$", "\n".join(page.read_text(encoding="utf-8") for page in PAGES), re.MULTILINE))
    assert found == Counter(list(PUBLIC))


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(re.findall(r"^ +- (\S+\.md)$", settings, re.MULTILINE)) == sorted(pages)


def test_every_link_between_files_leads_to_one():
    """On pages, in the READMEs and to pictures; `make docs` also checks the anchors."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))]
    links = [(page, link) for page, link in links if not re.match(r"https?:", link)]
    assert len(links) > 100
    assert not [(page, link) for page, link in links if not (page.parent / link).exists()]


def test_every_public_name_has_a_docstring():
    assert not [name for file in PUBLIC.values() for name in undocumented(file)]


def test_the_first_page_of_the_reference_has_every_name_of_the_package_and_where_it_is():
    text = INDEX.read_text(encoding="utf-8")
    paths = dict(re.findall(r"\[`(\w+)`\]\[(transformer_jax\.[\w.]+)\]", text))
    assert {*paths, "__version__"} == set(transformer_jax.__all__) and "`__version__`" in text
    for name, path in paths.items():
        module, _, last = path.rpartition(".")
        assert last == name and name in public_names(PUBLIC[module])
