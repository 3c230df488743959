"""``python -m cyqd data``: public data sets, downloaded where asked for and nowhere else.

Nothing else in this package fetches data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyqd.datasets.convert import make
from cyqd.datasets.download import DownloadError, fetch, sha256_of
from cyqd.datasets.manifest import Dataset, Source, read_manifests, shipped_manifests
from cyqd.evolution.storage import load_json, save_json

__all__ = ["Dataset", "DownloadError", "Source", "read_manifests", "run", "shipped_manifests"]


def run(
    names: Sequence[str] = (), *, out: Path | None = None, manifest: Path | None = None, dry_run: bool = False
) -> None:
    """List data sets, or download some: says first what comes from where, under which licence.

    Args:
        names: data sets to download; none lists all.
        out: folder to write to; the manifest's own by default.
        manifest: a manifest to use in place of those that come with the package.
        dry_run: say what would be downloaded, and stop.

    Raises:
        ValueError: if a name is unknown, a manifest is wrong, or a download does not hold what its manifest says.
        DownloadError: if a file cannot be had or is not the one expected.
        ImportError: if a package that reads a format is missing.
    """
    datasets = read_manifests([manifest] if manifest else shipped_manifests())
    unknown = [name for name in names if name not in datasets]
    if unknown:
        raise ValueError(f"names: there is no data set {', '.join(unknown)}; there are {', '.join(datasets)}")
    chosen = [datasets[name] for name in dict.fromkeys(names or datasets)]
    for dataset in chosen:
        print(_describe(dataset, out or dataset.out))
    for dataset in chosen if names else ():
        if _is_present(dataset, out or dataset.out):
            print(f"{dataset.name}: already there, checked")
        elif dry_run:
            print(f"{dataset.name}: would be downloaded")
        else:
            _obtain(dataset, out or dataset.out)


def _describe(dataset: Dataset, out: Path) -> str:
    lines = [
        f"{dataset.name} ({dataset.size}): {dataset.purpose}",
        f"    about    {dataset.homepage}",
        f"    licence  {dataset.licence}",
    ]
    for source in dataset.files:
        lines.append(f"    from     {source.url}")
        lines.append(f"    sha256   {source.sha256 or 'none published; the first download is recorded'}")
        lines.append(f"    to       {out / source.path}{'/' if source.member else ''}")
    return "\n".join([*lines, ""])


def _record(dataset: Dataset, out: Path) -> Path:
    return out / f"{dataset.name}.source.json"


def _is_present(dataset: Dataset, out: Path) -> bool:
    """Whether all files are there and are what this data set's sources gave."""
    if not _record(dataset, out).exists():
        return False
    record = load_json(_record(dataset, out))
    same = {source.url: source.sha256 or record["downloads"].get(source.url) for source in dataset.files}
    return same == record["downloads"] and all(
        (out / path).is_file() and sha256_of(out / path) == digest for path, digest in record["files"].items()
    )


def _obtain(dataset: Dataset, out: Path) -> None:
    path = _record(dataset, out)
    before: dict[str, Any] = load_json(path) if path.exists() else {"files": {}}
    downloads: dict[str, str] = {}
    made: dict[str, str] = {}
    for source in dataset.files:
        downloaded = out / source.download
        by_hand = downloaded.exists()
        downloads[source.url] = fetch(source, downloaded)
        try:
            files = make(source, downloaded, out, before["files"])
        except ValueError:
            if not by_hand:
                downloaded.unlink()  # else the next attempt would take it for one that the user put there
            raise
        if not by_hand and source.download not in files:
            downloaded.unlink()
        made.update(files)
        print(f"{dataset.name}: {out / source.path} from {source.url}, sha256 {downloads[source.url]}")
    about = {"name": dataset.name, "licence": dataset.licence, "homepage": dataset.homepage}
    save_json(path, {**about, "downloads": downloads, "files": made})
