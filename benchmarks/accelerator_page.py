"""A part of `accelerator.py`: the page and the JSON file of what `accelerator.sh` has measured so far.

Each part has left a line in parts.tsv (name, exit code, seconds, limit, command), its tables in NAME.out and its log in
NAME.log. Only the standard library is imported: the page is written again after each part.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

QUESTIONS = {
    "devices": "What is here?",
    "equality": "Are a training step and a search what they are on the CPU?",
    "tests": "Do the tests that make sense on one accelerator pass?",
    "demo": "How long does the demo take, from the command to its score?",
    "speed": "How fast is the training step, beside PyTorch compiled?",
    "pytorch": "PyTorch",
    "packed": "How fast is training on text, in packed batches?",
    "bucketed": "How fast is training on text, in bucketed batches?",
    "decoding": "How fast is translation, beside CTranslate2?",
    "deterministic": "What does it cost to have the same bits each time?",
    "captions": "How long does it take to 38 BLEU on Multi30k?",
}
CUT = (124, 137)  # `timeout` ended it, by a signal or by the last one


class Part(NamedTuple):
    name: str
    code: str  # the exit code; "-": it was not run
    seconds: int
    limit: int
    command: str  # or why it was not run
    text: str
    log: str

    @property
    def ended(self) -> str:
        """whole, cut (by its time limit), failed or not run."""
        if self.code == "-":
            return "not run"
        if int(self.code) in CUT:
            return "cut"
        return "failed" if int(self.code) else "whole"

    @property
    def why(self) -> str:
        """A line about a part that did not come to its end; else ""."""
        if self.ended == "not run":
            return self.command
        if self.ended == "cut":
            return f"its {self.limit} s were over; what it had printed until then stands here"
        if self.ended == "failed":
            lines = [line for line in (self.log or self.text).splitlines() if line.strip()]
            last = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no line")
            return f"exit code {self.code}: {last.removeprefix('error: ').strip()}"
        return ""


def write_page(folder: Path) -> None:
    """Writes accelerator.md and accelerator.json, each at once or not at all."""
    parts = parts_of(folder)
    for name, text in (("accelerator.md", page(parts)), ("accelerator.json", json.dumps(record(parts), indent=1) + "\n")):
        unfinished = folder / f"{name}.part"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def parts_of(folder: Path) -> list[Part]:
    parts = []
    for line in (folder / "parts.tsv").read_text(encoding="utf-8").splitlines():
        name, code, seconds, limit, command = line.split("\t")
        texts = [folder / f"{name}.{kind}" for kind in ("out", "log")]
        read = [file.read_text(encoding="utf-8", errors="replace") if file.exists() and code != "-" else "" for file in texts]
        parts.append(Part(name, code, int(seconds), int(limit), command, *read))
    return parts


def page(parts: list[Part]) -> str:
    blocks = ["# What an accelerator does with transformer_jax", "Made by `benchmarks/accelerator.sh`."]
    for part in parts:
        blocks.append(f"## {QUESTIONS[part.name]}")
        if part.code != "-":
            blocks.append(f"`{part.command}` ({part.seconds} s)")
        if part.why:
            blocks.append(f"**{part.ended.capitalize()}**: {part.why}.")
        text = part.text.strip()
        if text:
            blocks.append(text if "|" in text else f"```\n{text}\n```")
    return "\n\n".join(blocks) + "\n"


def record(parts: list[Part]) -> dict[str, Any]:
    return {
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parts": [
            {
                "name": part.name,
                "question": QUESTIONS[part.name],
                "ended": part.ended,
                "why": part.why,
                "seconds": part.seconds,
                "limit": part.limit,
                "command": "" if part.code == "-" else part.command,
                "tables": tables(part.text),
                "lines": [line for line in part.text.splitlines() if line.strip() and not line.startswith("|")],
            }
            for part in parts
        ],
    }


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of Markdown, each a list of its rows by column.

    >>> tables("| a | b |\\n| --- | ---: |\\n| 1 | 2 |\\n| 3 |")
    [[{'a': '1', 'b': '2'}]]
    """
    found: list[list[dict[str, str]]] = []
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
            found.append([])
        elif not set("".join(cells)) <= set("-: ") and len(cells) == len(head):  # neither the rule nor a row that was cut
            found[-1].append(dict(zip(head, cells, strict=True)))
    return found
