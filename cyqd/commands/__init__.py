"""The commands of ``python -m cyqd``, one module each: ``fit.py`` is ``fit``, ``check_task.py`` is ``check-task``.

A domain adds commands of its own in the same way, in a package ``commands`` inside its folder. A command's module
has ``parser()``, which returns its arguments, and ``prepare(config, parser)``, which checks everything that can be
checked before any work and returns the work, a function without arguments. The first line of its docstring is its
help. Modules whose name begins with an underscore are no commands.
"""

from __future__ import annotations

import ast
from pathlib import Path

ORDER = ("fit", "evolve", "test")  # what users meet first; the others follow by name


def available() -> dict[str, tuple[str, str]]:
    """Return the module and the help of every command, by its name; no command is imported for it."""
    root = Path(__file__).parents[1]
    found = {}
    for file in [*root.glob("commands/*.py"), *root.glob("*/commands/*.py")]:
        if not file.name.startswith("_"):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            module = ".".join(["cyqd", *file.relative_to(root).with_suffix("").parts])
            found[file.stem.replace("_", "-")] = module, text.partition("\n")[0]
    return {name: found[name] for name in [*ORDER, *sorted(found.keys() - set(ORDER))]}
