"""Who may import whom, and what no file may do: read from the source, so that nothing needs to run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "cyqd").rglob("*.py"))
DOMAIN_NAME = re.compile(
    r"(?<![A-Za-z])(llm|LLM|sam|SAM)s?(?=[A-Z][a-z]|[^A-Za-z]|$)"
)  # LLMData, sam_loss; not sample

# For each part, what it may import: parts of cyqd, and which of the libraries that are kept in one place.
ALLOWED: dict[str, set[str]] = {
    "evolution": set(),
    "report": {"evolution", "wandb"},
    "training": {"evolution", "report", "lightning"},
    "llm": {"commands", "evolution", "training", "lightning"},
    "sam": {"commands", "evolution", "training", "lightning"},
    "commands": {"evolution", "training", "report", "datasets", "lightning"},
    "datasets": {"evolution"},
    "__main__": {"commands", "training", "lightning"},
    "__init__": set(),
}
RESERVED = {"lightning", "pytorch_lightning", "wandb"}
# Meta's format is torch.save's; what we read is safetensors, and torch.load with weights_only=True.
EXPORTS = {"sam/weights.py"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def part_of(file: Path) -> str:
    """Return the top-level package or module of cyqd that a file belongs to."""
    return file.relative_to(ROOT / "cyqd").parts[0].removesuffix(".py")


def imports(tree: ast.AST, file: Path) -> Iterator[str]:
    """Yield the dotted name of everything imported, relative and function-level imports included."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden_imports(tree: ast.AST, file: Path) -> list[str]:
    """Return the imports that break the table above."""
    part, found = part_of(file), []
    for name in imports(tree, file):
        top, *rest = name.split(".")
        if top == "cyqd":
            target = rest[0] if rest and rest[0] in ALLOWED else part
        elif top in RESERVED:
            target = "lightning" if top == "pytorch_lightning" else top
        else:
            continue
        if target != part and target not in ALLOWED[part]:
            found.append(name)
    return found


def forbidden_acts(tree: ast.AST, file: Path) -> list[str]:
    """Return pickles, unsafe loads, shells and bare excepts, with their lines."""
    found = [f"import {name}" for name in imports(tree, file) if name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: bare except")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if called == "torch.load" and options.get("weights_only") is not True:
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            if called == "torch.save" and str(file.relative_to(ROOT / "cyqd")) not in EXPORTS:
                found.append(f"line {node.lineno}: torch.save writes a pickle; use safetensors")
            wrong = [("weights_only", False), ("shell", True), ("allow_pickle", True)]
            found += [f"line {node.lineno}: {k}={v}" for k, v in wrong if options.get(k) is v]
            if called in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
                found.append(f"line {node.lineno}: {called} runs a shell")
    return found


def foreign_domains(source: str, file: Path) -> set[str]:
    """Return the domains that a file names, in code, strings or comments, and does not belong to."""
    return {name.lower() for name in DOMAIN_NAME.findall(source)} - {part_of(file)}


def file_id(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), file_id(file))


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_imports_run_one_way(file):
    assert part_of(file) in ALLOWED, f"{file_id(file)}: add this part of cyqd to the table of this test"
    assert forbidden_imports(parse(file), file) == []


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_no_pickle_no_unsafe_load_no_shell_no_bare_except(file):
    assert forbidden_acts(parse(file), file) == []


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_only_a_domains_own_folder_names_it(file):
    assert foreign_domains(file.read_text(encoding="utf-8"), file) == set()


def test_algorithm_1_is_one_file_of_at_most_200_lines():
    assert len((ROOT / "cyqd/evolution/cycleqd.py").read_text(encoding="utf-8").splitlines()) <= 200


# The checks themselves: each finds what it is for.


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("evolution", "import cyqd.training"),
        ("evolution", "from cyqd import training"),
        ("evolution", "from ..training import run"),
        ("evolution", "def f():\n    import lightning as L"),
        ("evolution", "import wandb"),
        ("training", "from cyqd.llm.data import LLMData"),
        ("training", "from wandb import init"),
        ("llm", "from ..sam import module"),
        ("sam", "from cyqd.llm import chat"),
        ("report", "import pytorch_lightning"),
        ("__main__", "import cyqd.sam"),
    ],
)
def test_a_forbidden_import_is_found(part, line):
    folder = ROOT / "cyqd" / ("" if part == "__main__" else part)
    assert forbidden_imports(ast.parse(line), folder / f"{part if part == '__main__' else 'x'}.py")


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import dump",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.save(state, path)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_a_forbidden_act_is_found(line):
    assert forbidden_acts(ast.parse(line), ROOT / "cyqd/evolution/x.py")


@pytest.mark.parametrize("line", ['"cyqd.llm.LLMModule"', "# for LLMs", "SAMData()", "sam_loss = 1", "'cyqd/sam'"])
def test_a_named_domain_is_found(line):
    assert foreign_domains(line, ROOT / "cyqd/training/x.py")
    assert not foreign_domains("same sample = llama", ROOT / "cyqd/training/x.py")
