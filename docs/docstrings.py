"""From the docstrings to the pages of `make docs`: what mkdocstrings would not make of them by itself.

The docstrings are written to be read in the source, and are nearly Markdown. Here doctests become blocks of code, names in
single backticks links to where they are documented, and the fields of a class, with the comments that tell their shapes, a
table. mkdocs has this file as a hook; griffe, which reads the sources for mkdocstrings, has it as an extension.
"""

import re
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import griffe

PACKAGE = "transformer_jax"
VERSION = runpy.run_path(str(Path(__file__).parents[1] / PACKAGE / "version.py"))["__version__"]


def on_config(config: Any) -> Any:
    """mkdocs' hook: the site's name tells the version."""
    config.site_name = f"{config.site_name} {VERSION}"
    return config


class Docstrings(griffe.Extension):
    """Changes every public docstring of the package once all of it has been read; no module is imported for that."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._public: dict[str, griffe.Object] = {}  # by their paths
        for module in _modules(pkg):
            # What a package's __init__ only passes on is documented where it is defined.
            own = [module.members[name] for name in module.exports or () if not module.members[name].is_alias]
            if module.exports is not None:
                self._public |= {each.path: each for each in (module, *own)}
            for cls in own:
                methods = [each for each in cls.members.values() if cls.is_class and _is_method(each)]
                self._public |= {each.path: each for each in methods}
        found: dict[str, list[str]] = {}
        for path in self._public:
            parts = path.split(".")
            for count in (1, 2):
                found.setdefault(".".join(parts[-count:]), []).append(path)
        self._only = {name: paths[0] for name, paths in found.items() if len(paths) == 1}
        for obj in self._public.values():
            text = obj.docstring.value if obj.docstring else _comment(obj) if obj.is_attribute else ""
            text = self._markdown(text, obj)
            if obj.is_class and (fields := [each for each in obj.members.values() if _is_field(each)]):
                text += "".join(self._tables(fields, obj))
                if "__init__" in obj.members and not obj.members["__init__"].lineno:  # a dataclass's
                    del obj.members["__init__"]
            obj.docstring = griffe.Docstring(text, parent=obj, parser="google") if text else None

    def _markdown(self, text: str, obj: griffe.Object) -> str:
        """Doctests fenced, names linked; blocks of code as they are."""
        paragraphs = re.split(r"\n(?:[ ]*\n)+", text)
        return "\n\n".join(
            f"```pycon\n{each}\n```"
            if each.startswith(">>>")
            else each
            if all(line.startswith("    ") for line in each.split("\n"))
            else self._prose(each, obj)
            for each in paragraphs
        )

    def _prose(self, text: str, obj: griffe.Object) -> str:
        parts = re.split(r"(`[^`\n]+`)", text)
        return "".join(self._linked(part, obj) if part.startswith("`") else part.replace("<", "&lt;") for part in parts)

    def _linked(self, code: str, obj: griffe.Object) -> str:
        path = self._path_of(code.strip("`"), obj)
        return f"[{code}][{path}]" if path and path != obj.path else code

    def _path_of(self, name: str, obj: griffe.Object) -> str:
        """What a name stands for in the docstring of `obj`: a method beside it, a name of its module, or the only one of all
        that has it; "" for none of ours."""
        name = name.removesuffix("()")
        if name.endswith(".py"):
            path = f"{PACKAGE}.{name.removesuffix('.py').replace('/', '.')}"
            return path if path in self._public else ""
        if not re.fullmatch(r"\w+(\.\w+)*", name):
            return ""
        first, *rest = name.split(".")
        scope: griffe.Object | None = obj
        while scope is not None:
            beside = self._public.get(f"{scope.path}.{name}")
            if beside and (rest or not beside.is_module):  # `search` alone is no room, but an argument
                return beside.path
            if first in _own_names(scope):
                return ""
            if scope is obj.module and first in scope.members and scope.members[first].is_alias:
                path = ".".join([scope.members[first].target_path, *rest])
                return path if path in self._public else ""
            scope = scope.parent
        # A word such as `score` is mostly an argument or a field.
        return self._only.get(name, "") if re.search(r"[A-Z_.]", name) else ""

    def _tables(self, fields: Sequence[griffe.Attribute], cls: griffe.Class) -> Iterator[str]:
        """The fields with types, defaults and comments. A comment after an empty line heads a table, unless the first field
        follows."""
        with_default = any(each.value is not None for each in fields)
        columns = ["field", "type", *["default"] * with_default, ""]
        head = f"\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
        for number, field in enumerate(fields):
            above = _comment_above(field, after_blank=True)
            title = above if number else ""
            if title or not number:
                yield f"\n\n{self._prose(title, cls)}{head}" if title else head
            kind = "".join(self._type(part, cls) for part in re.split(r"([\w.]+)", _type_and_limits(field)))
            default = [f"`{_default(field)}`" if field.value is not None else ""] if with_default else []
            cells = [f"`{field.name}`", kind, *default, self._prose(_comment(field) or ("" if number else above), cls)]
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"

    def _type(self, part: str, cls: griffe.Class) -> str:
        path = self._path_of(part, cls)
        return f"[{part}][{path}]" if path and path != cls.path else part.replace("[", r"\[")


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for each in module.members.values():
        if not each.is_alias and each.is_module:
            yield from _modules(each)


def _is_field(obj: griffe.Object) -> bool:
    """Is it named, with its type, in the body of a class?"""
    return obj.is_attribute and bool(re.match(rf"    {obj.name}: ", "".join(obj.lines)))


def _is_method(obj: griffe.Object) -> bool:
    is_method = obj.is_function or "property" in obj.labels
    return is_method and (obj.name == "__call__" or not obj.name.startswith("_"))


def _own_names(obj: griffe.Object) -> set[str]:
    """Arguments of a function, fields of a class."""
    if obj.is_class and "__init__" in obj.members:
        return {*obj.members, *(each.name for each in obj.members["__init__"].parameters)}
    return {each.name for each in obj.parameters} if obj.is_function else set(obj.members) if obj.is_class else set()


def _type_and_limits(field: griffe.Attribute) -> str:
    """Without the help of a field's flag: `Annotated[int, AtLeast(0), Flag("...")]` -> `int, AtLeast(0)`."""
    if not str(field.annotation).startswith("Annotated["):
        return str(field.annotation)
    return ", ".join(text for text in map(str, field.annotation.slice.elements) if not text.startswith("Flag("))


def _default(field: griffe.Attribute) -> str:
    made = re.fullmatch(r"(?:dataclasses\.)?field\(.*?default(?:_factory)?=(\w+).*\)", str(field.value))
    return {"list": "[]"}.get(made[1], made[1]) if made else str(field.value)


def _comment(obj: griffe.Attribute) -> str:
    """What is said of it at the end of its line, or right above. A value in parentheses ends a line before them."""
    if not obj.lines:
        return ""
    last = obj.lines[-2] if obj.lines[-1].strip() == ")" else obj.lines[-1]
    _, _, behind = last.partition("  # ")
    return behind or _comment_above(obj, after_blank=False)


def _comment_above(obj: griffe.Attribute, after_blank: bool) -> str:
    lines, first = obj.lines_collection[obj.filepath], obj.lineno - 1
    start = first
    while lines[start - 1].lstrip().startswith("# "):
        start -= 1
    is_after_blank = not lines[start - 1].strip()
    return " ".join(line.strip().removeprefix("# ") for line in lines[start:first]) if is_after_blank == after_blank else ""
