"""What is made of a download: unpacked files, chosen folders of archives, dialogues."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from cyqd.llm.chat import read_conversations
from tests.datasets.conftest import files


def tar(members: dict[str, bytes | None]) -> bytes:
    """None makes a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tape:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            if body is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            entry.size = len(body or b"")
            tape.addfile(entry, io.BytesIO(body or b""))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, body in members.items():
            bundle.writestr(name, body)
    return buffer.getvalue()


def test_gz_is_unpacked_and_a_cut_one_refused(get: Callable[..., Path]) -> None:
    whole = gzip.compress(b"text" * 100)
    with pytest.raises(ValueError, match="not what its manifest says"):
        get(whole[:-20], "a.jsonl.gz", path="a.jsonl", unpack="gz")
    out = get(whole, "a.jsonl.gz", path="a.jsonl", unpack="gz")
    assert (out / "a.jsonl").read_bytes() == b"text" * 100
    assert files(out) == {"a.jsonl", "mine.source.json"}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_only_the_wanted_folder_of_an_archive_is_unpacked(get: Callable[..., Path], kind: str) -> None:
    members = {"top-1/a/b/1.json": b"1", "top-1/a/b/c/2.sh": b"2", "top-1/a/bb/3": b"3", "top-1/README": b"4"}
    body = tar(members) if kind == "tar" else zipped(members)
    out = get(body, f"top.{kind}", path="mine", unpack=kind, member="a/b")
    assert files(out) == {"mine/1.json", "mine/c/2.sh", "mine.source.json"}
    assert (out / "mine/c/2.sh").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (tar({"top/a/../../evil": b"x"}), "leads out"),
        (tar({"/top/a/evil": b"x"}), "leads out"),
        (tar({"top/a/evil": None}), "link or a device"),
        (zipped({"top/a/../../../evil": b"x"}), "leads out"),
        (tar({"top/b/c": b"x"}), "no file in a"),
        (b"not an archive", "not what its manifest says"),
    ],
    # Named, since gzip writes the time into the bytes, and all workers must collect the same tests.
    ids=["out of the folder", "from the root", "a link", "above the root", "another folder", "no archive"],
)
def test_an_archive_that_is_not_as_it_should_be_is_refused(
    get: Callable[..., Path], tmp_path: Path, body: bytes, reason: str
) -> None:
    kind = "zip" if body.startswith(b"PK") else "tar"
    with pytest.raises(ValueError, match=reason):
        get(body, "top.archive", path="mine", unpack=kind, member="a")
    assert files(tmp_path) == {"mine.json"}


def test_rows_become_dialogues(get: Callable[..., Path]) -> None:
    rows = [{"problem": f"Write f{i}.\u2028", "solution": "def f(): ...", "lang": "python"} for i in range(3)]
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    out = get(body, "raw.jsonl", path="chat.jsonl", chat={"instruction": "problem", "output": "solution"})
    conversations = read_conversations(out / "chat.jsonl")
    assert len(conversations) == 3
    assert conversations[1] == [
        {"role": "user", "content": "Write f1.\u2028"},
        {"role": "assistant", "content": "def f(): ..."},
    ]
    with pytest.raises(ValueError, match="row 1: no 'answer'"):
        get(body, "raw2.jsonl", path="chat2.jsonl", chat={"instruction": "problem", "output": "answer"})


def test_parquet_in_sharegpt_form_becomes_dialogues(get: Callable[..., Path]) -> None:
    turns = [
        {"from": "human", "loss": None, "value": "You have a shell."},
        {"from": "gpt", "loss": False, "value": "Ok?"},
        {"from": "human", "loss": None, "value": "List the files."},
        {"from": "gpt", "loss": True, "value": "Act: bash\n\n```bash\nls\n```"},
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"conversations": turns, "id": "os_0"}] * 2), buffer)
    out = get(buffer.getvalue(), "os.parquet", path="os.jsonl", chat={"conversations": "conversations"})
    conversations = read_conversations(out / "os.jsonl")
    assert len(conversations) == 2
    assert [message["role"] for message in conversations[0]] == ["user", "assistant"] * 2
    assert [message.get("weight") for message in conversations[0]] == [None, 0, None, None]
    assert conversations[0][3]["content"] == turns[3]["value"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "row 1: no 'narrator'"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "row 1: expected texts"),
        ([], "row 1: list indices"),
    ],
)
def test_a_row_of_another_form_is_named(get: Callable[..., Path], row: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        get(json.dumps(row).encode(), "raw.jsonl", path="c.jsonl", chat={"conversations": "conversations"})
