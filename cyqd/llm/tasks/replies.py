"""Finding the program in a reply."""

from __future__ import annotations

import re

# A block that a too short reply left open counts as well.
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^(?:(?:async def|def|class|import)\s|from\s+\S+\s+import\s|@\w|\w+\s*=[^=])", re.MULTILINE)


def block(reply: str, *languages: str) -> str | None:
    """Return the first Markdown block in ``reply`` with one of the languages or none; None if there is no such."""
    for label, text in _BLOCK.findall(reply):
        if label.lower() in ("", *languages):
            return str(text).strip("\n")
    return None


def code_or_raw(reply: str, *languages: str) -> str:
    """Return the first Markdown block in one of the languages, else the whole reply, stripped."""
    found = block(reply, *languages)
    return (reply if found is None else found).strip()


def python_program(reply: str) -> str | None:
    """Return the program in ``reply``: its first Python block, else all from the first line that is a statement."""
    found = block(reply, "python", "py", "python3")
    if found is None and (start := _PYTHON.search(reply)):
        found = reply[start.start() :]
    return found if found and found.strip() else None
