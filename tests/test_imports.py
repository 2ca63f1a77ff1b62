"""Imports point one way, heavy parts stay out, and the public names are what they say."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import transformer_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "transformer_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# A room imports from those above it and from itself: folders, and the few files beside them.
ROOMS = [
    "version",
    "errors",
    "config",
    "recipes",
    "platform",
    "worker_processes",
    "storage",
    "tokenization",
    "distributed",
    "decoding",
    "models",
    "data",
    "runs",
    "interop",
    "inference",
    "evaluation",
    "visualization",
    "training",
    "serving",
    "cli",
    "__main__",
]
ALLOWED = {room: set(ROOMS[: number + 1]) for number, room in enumerate(ROOMS)}
ALLOWED["__init__"] = set(ROOMS) - {"__main__", "cli", "interop"}
HEAVY = ["tensorflow", "torch", "transformers", "ctranslate2", "matplotlib", "rouge_score"]


def imported(file: Path) -> set[str]:
    """The dotted names of all modules (and perhaps names in them) that a file imports, at its top or inside functions; but for
    what it imports where it is run as a program."""
    names = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not ast.unparse(node).startswith("if __name__ == '__main__':")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_before_it(file):
    room = room_of(file)
    assert room in ALLOWED, f"{room} is a new room: say here what it may import"
    own = [name.removeprefix("transformer_jax.") for name in imported(file) if name.startswith("transformer_jax.")]
    wrong = [name for name in own if not any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[room])]
    assert not wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_parts_are_imported_inside_functions(file):
    top = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in top if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] in HEAVY]


def test_the_data_room_does_without_jax():
    for file in FILES:
        if room_of(file) in ("data", "tokenization", "config", "recipes", "errors"):
            assert not [name for name in imported(file) if name.split(".")[0] in ("jax", "flax", "optax", "orbax")]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "translate.py"])
def test_a_script_calls_one_function(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    command = f"transformer_jax.cli.commands.{Path(script).stem}"
    assert {node.module for node in top} == {command, "transformer_jax.cli.program"}


def test_commands_set_up_before_they_import_the_work():
    """JAX's, SentencePiece's and sacreBLEU's imports take seconds, for which `--help` does not wait."""
    commands = [f"transformer_jax.cli.commands.{file.stem}" for file in (PACKAGE / "cli" / "commands").glob("*.py")]
    assert len(commands) > 5
    loaded = modules_after(f"import transformer_jax.cli.subcommands, {', '.join(commands)}")
    assert not loaded & {"jax", "sentencepiece", "sacrebleu"}


def test_the_public_names_pull_in_nothing_heavy():
    loaded = modules_after("import transformer_jax\nfor name in transformer_jax.__all__: getattr(transformer_jax, name)")
    assert not loaded & set(HEAVY)
    assert "jax" in loaded
    assert not modules_after("import transformer_jax") & {"jax", *HEAVY}


def test_metrics_are_written_without_pytorch_and_others_may_import_it_afterwards(tmp_path):
    (tmp_path / "torch.py").write_text("Tensor = float")
    write = (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from transformer_jax.training.metrics_writer import MetricsWriter\n"
        f"with MetricsWriter(Path({str(tmp_path)!r}), 0) as writer:\n"
        "    writer.write(1, 'train', {'loss': 0.5}, ['a text'])"
    )
    assert "torch" not in modules_after(write)
    assert "torch" in modules_after(f"{write}\nimport torch\nassert torch.Tensor is float")
    assert list((tmp_path / "tensorboard").iterdir())


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return set(found.stdout.split())


def test_every_public_name_is_there_and_typed():
    """What type checkers read (the imports), what is imported later (_LATER) and __all__ are one list."""
    for name in transformer_jax.__all__:
        assert getattr(transformer_jax, name) is not None
        assert name in dir(transformer_jax)
    own = {name for name in imported(PACKAGE / "__init__.py") if name.startswith("transformer_jax.")}
    assert {name.rpartition(".")[2] for name in own} == set(transformer_jax.__all__)
    later = {f"transformer_jax.{module}.{name}" for name, module in transformer_jax._LATER.items()}
    assert later <= own
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        transformer_jax.Nothing  # noqa: B018


def test_modules_say_what_they_offer():
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file.name != "version.py":
            assert ast.get_docstring(tree), file
