"""Finding the program in a reply."""

from __future__ import annotations

import re

# A block that a too short reply left open counts as well, and so does one closed at the end of its last line.
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```(?!\w)|(?=^[ \t]*```\w)|```[ \t]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_PYTHON = re.compile(r"^(?:(?:async def|def|class|import)\s|from\s+\S+\s+import\s|@\w|\w+\s*=[^=])", re.MULTILINE)

_PYTHON_LABELS = ("", "python", "py", "python3")


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


def python_program(reply: str, *, name: str | None = None, head: str = "") -> str | None:
    """Return the program in ``reply``; None where there is none.

    It is the first Python block, else all from the first line that is a statement.

    Args:
        reply: what the model wrote.
        name: a function asked for; the first block that defines it goes before others.
        head: a program's beginning up to and with the first lines of that function. A reply that does not define
            the function but begins with an indented line is taken for its body, and put behind ``head``.
    """
    blocks: list[str] = [
        text.strip("\n") for label, text in _BLOCK.findall(reply) if label.lower() in _PYTHON_LABELS
    ]
    blocks = [text for text in blocks if text.strip()]
    defines = re.compile(rf"^(?:(?:async def|def|class)\s+{name}\b|{name}\s*(?::[^=\n]+)?=[^=])", re.MULTILINE)
    whole = next((text for text in blocks if name and defines.search(text)), None)
    if whole is not None:
        return whole
    body = blocks[0] if blocks else reply.strip("\n")
    if head and body[:1] in (" ", "\t") and not defines.search(body):
        return f"{head.rstrip()}\n{body}"
    if blocks:
        return blocks[0]
    start = _PYTHON.search(reply)
    return reply[start.start() :] if start else None
