"""Figures are read back: what is drawn is what the run's folder says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cyqd.__main__ import main
from cyqd.evolution.archive import Archive, Elite
from cyqd.report.figures import (
    archive_figure,
    cost_figure,
    curve_figure,
    kept_figure,
    lineage_figure,
    parts_figure,
    projection,
    quality_limits,
    results_figure,
    save,
    similarity_figure,
)
from cyqd.report.figures.run import run_figures
from cyqd.report.figures.style import EMPTY, QUALITY, colour, wrap
from cyqd.report.page_data import similarity_data
from cyqd.report.record import RunRecord, read_run
from tests.report.runs import make_run


@pytest.fixture(scope="module", params=[2, 3, 4])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("runs") / f"k{request.param}"
    return read_run(make_run(folder, tasks=request.param, generations=40))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "unfinished", tasks=3, generations=5, results=False)


def experts(run: RunRecord) -> list[Elite]:
    return [run.elites[evaluation] for evaluation in run.experts.values()]


def outlines(figure: Figure) -> list[list[tuple[str, tuple[float, ...]]]]:
    """By axes, which experts' outlines are drawn where: (left, low, width, height)."""
    return [
        [
            (patch.get_gid().removeprefix("expert "), (*patch.get_xy(), patch.get_width(), patch.get_height()))
            for patch in axes.patches
            if isinstance(patch, Rectangle) and patch.get_gid()
        ]
        for axes in figure.axes
    ]


def test_what_is_drawn_is_the_archive(run: RunRecord) -> None:
    archives = run.archives()
    figure = archive_figure(archives, run.tasks, experts(run))
    if len(run.tasks) == 2:
        check_bars(run, figure)
        return
    pairs = [(a, x, y) for a in archives for x, y in pairs_of(a)]
    drawn = [axes for axes in figure.axes if axes.collections and axes.get_label() != "<colorbar>"]
    assert len(drawn) == len(pairs)
    for axes, (archive, x, y), found in zip(drawn, pairs, outlines(figure), strict=False):
        (mesh,) = axes.collections
        edges = mesh.get_coordinates()
        np.testing.assert_allclose(edges[0, :, 0], archive.edges[x])
        np.testing.assert_allclose(edges[:, 0, 1], archive.edges[y])
        values = np.ma.filled(mesh.get_array(), np.nan)
        others = [k for k in range(len(run.tasks)) if k != archive.task]
        expected: dict[tuple[int, int], float] = {}
        for elite in archive:
            cell = dict(zip(others, archive.cell_of(elite.scores), strict=True))
            place = cell[y], cell[x]
            expected[place] = max(expected.get(place, 0), elite.scores[archive.task])
        for place in np.ndindex(values.shape):
            assert values[place] == expected.get(place) or (np.isnan(values[place]) and place not in expected)
        assert mesh.get_clim() == quality_limits(archives)
        assert to_hex(axes.get_facecolor()) == EMPTY
        assert (axes.get_xlabel().removeprefix("score on "), axes.get_ylabel().removeprefix("score on ")) == (
            run.tasks[x],
            run.tasks[y],
        )
        assert {name for name, _ in found} == set(run.tasks)
        said = [text.get_text() for text in (axes.title, *axes.texts)]
        assert (f"quality: {run.tasks[archive.task]}" in said) == (
            len(run.tasks) == 3 or (x, y) == pairs_of(archive)[0]
        )
        for name, (left, low, width, height) in found:
            scores = run.elites[run.experts[name]].scores
            for score, start, size in ((scores[x], left, width), (scores[y], low, height)):
                assert start - 1e-9 <= score < start + size


def pairs_of(archive: Archive) -> list[tuple[int, int]]:
    """Return the pairs of an archive's behaviour axes."""
    return list(combinations([task for task in range(len(archive.edges)) if task != archive.task], 2))


def check_bars(run: RunRecord, figure: Figure) -> None:
    for archive, axes, found in zip(run.archives(), figure.axes, outlines(figure), strict=True):
        edges = np.array(archive.edges[1 - archive.task])
        bars = {round(bar.get_x(), 9): bar.get_height() for bar in axes.containers[0]}
        low, high = quality_limits(run.archives())
        for bar in axes.containers[0]:
            assert bar.get_facecolor() == pytest.approx(colormaps[QUALITY]((bar.get_height() - low) / (high - low)))
        assert bars == {round(edges[cell], 9): archive.quality(elite) for (cell,), elite in archive.cells.items()}
        empty = [p for p in axes.patches if to_hex(p.get_facecolor()) == EMPTY]
        assert {round(p.get_x(), 9) for p in empty} == {
            round(edges[cell], 9) for cell in range(15) if (cell,) not in archive.cells
        }
        assert {name for name, _ in found} == set(run.tasks)
        for name, (left, _, width, _) in found:
            assert left - 1e-9 <= run.elites[run.experts[name]].scores[1 - archive.task] < left + width


def test_empty_and_zero_look_different() -> None:
    edges = [tuple(np.linspace(0, 1, 4))] * 3
    archive = Archive(0, edges)
    archive.add(Elite(0, (0.0, 0.1, 0.1)))
    grid = projection(archive, 1, 2)
    assert grid[0, 0] == 0
    assert np.isnan(np.delete(grid.ravel(), 0)).all()
    figure = archive_figure([archive], ["a", "b", "c"])
    FigureCanvasAgg(figure).draw()
    (mesh,) = figure.axes[0].collections
    zero, nothing = mesh.get_facecolors()[:2]
    assert zero[3] == 1
    assert nothing[3] == 0, "the axes' grey shows through"
    assert to_hex(zero) != EMPTY
    bars = Archive(0, edges[:2])
    bars.add(Elite(0, (0.0, 0.1)))
    axes = archive_figure([bars], ["a", "b"]).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[pytest.approx(1 / 6), 0.0]], (
        "a mark where the bar has no height"
    )
    assert sum(to_hex(patch.get_facecolor()) == EMPTY for patch in axes.patches) == 2


def test_experts_in_one_cell_are_all_outlined() -> None:
    edges = [tuple(np.linspace(0, 1, 4))] * 3
    elites = [Elite(k, (0.5, 0.5, 0.5)) for k in range(3)]
    archive = Archive(2, edges)
    archive.add(elites[0])
    figure = archive_figure([archive], ["a", "b", "c"], elites)
    assert [name for name, _ in outlines(figure)[0]] == ["a", "b", "c"]
    drawn = [p for p in figure.axes[0].patches if p.get_gid()]
    assert [to_hex(p.get_edgecolor()) for p in drawn] == [colour(k).lower() for k in range(3)]
    figure.dpi = 300
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.axes[0].get_window_extent()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    inside = pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].reshape(-1, 3)
    for k in range(3):
        seen = (inside == np.array(to_rgb(colour(k))) * 255).all(axis=1).sum()
        assert seen > 10, "no outline hides another"


def test_there_must_be_an_archive() -> None:
    with pytest.raises(ValueError, match="before all experts are scored there are none"):
        archive_figure([], ["a", "b"])


def test_the_curve_is_the_history(run: RunRecord) -> None:
    each, *best = curve_figure(run).axes[0].lines
    means = [elite.mean for elite in run.elites]
    assert each.get_ydata().tolist() == means
    assert each.get_xdata().tolist() == [line["generation"] for line in run.evaluations]
    assert [line.get_ydata()[-1] for line in best] == [
        *(max(elite.scores[k] for elite in run.elites) for k in range(len(run.tasks))),
        max(means),
    ]
    start = len(run.tasks)
    assert best[-1].get_ydata().tolist() == [max(means[:n]) for n in range(start, len(means) + 1)]


def test_a_lineage_goes_back_to_the_experts(run: RunRecord) -> None:
    newest = max(elite.id for archive in run.archives() for elite in archive)
    axes = lineage_figure(run, newest).axes[0]
    parents = sum(len(run.evaluations[model].get("parents", [])) for model in run.ancestors(newest))
    links = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    assert len(links) == parents
    ends = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert ends[f"model {newest}"] == [[run.evaluations[newest]["generation"], run.elites[newest].mean]]
    assert {label for label in ends if label.startswith("expert")} == {
        f"expert {task}, α = {run.shares[newest][k]:.2f}"
        for k, task in enumerate(run.tasks)
        if run.experts[task] in run.ancestors(newest)
    }
    for k in range(len(run.tasks)):  # the expert of which a model holds most gives its colour
        dots = [line for line in axes.lines if line.get_color() == colour(k) and line.get_marker() == "o"]
        held = [model for model in run.ancestors(newest) if run.shares[model].index(max(run.shares[model])) == k]
        assert sum(len(line.get_xdata()) for line in dots) == len(held)
    with pytest.raises(ValueError, match="knows no parents of model 1000"):
        lineage_figure(run, 1000)


def test_a_lineage_without_shares_is_grey(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", tasks=3, generations=20, crossover="split"))
    newest = max(elite.id for archive in run.archives() for elite in archive)
    lines = lineage_figure(run, newest).axes[0].lines
    bred = [model for model in run.ancestors(newest) if model not in run.experts.values()]
    assert [len(line.get_xdata()) for line in lines if line.get_color() == "#8a94a0"] == [len(bred)]
    labels = {line.get_label() for line in lines if str(line.get_label()).startswith("expert")}
    assert labels == {f"expert {t}" for t, expert in run.experts.items() if expert in run.ancestors(newest)}


def test_costs_add_up(run: RunRecord) -> None:
    axes = cost_figure(run).axes[0]
    area = sum(bar.get_height() * bar.get_width() for container in axes.containers for bar in container)
    seconds = [line["seconds"] for line in run.evaluations]
    assert area == pytest.approx(sum(s["breed"] + s["materialise"] + s["evaluate"] + s["tell"] for s in seconds))


def test_a_run_without_clocks_has_figures(unfinished: Path) -> None:
    run = read_run(unfinished)
    first = {key: value for key, value in run.evaluations[0].items() if key != "seconds"}
    assert not cost_figure(replace(run, evaluations=[first])).axes[0].containers
    only = lineage_figure(replace(run, evaluations=[first]), 0).axes[0]
    assert [line.get_label() for line in only.lines if str(line.get_label()).startswith("expert")] == [
        f"expert {run.tasks[0]}, α = 1.00"
    ]


def test_results_are_drawn_with_their_intervals(run: RunRecord) -> None:
    axes = results_figure(run).axes[0]
    rows = run.results["rows"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row["model"] for row in rows]
    for number, bars in enumerate(axes.containers):
        cells = [[*row["tasks"].values(), row["mean"]][number] for row in rows]
        assert bars.lines[0].get_xdata().tolist() == [cell["mean"] for cell in cells]
        ends = [segment[:, 0].tolist() for segment in bars.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, [[cell["low"], cell["high"]] for cell in cells])


def test_similarity_is_drawn_as_matrices(run: RunRecord) -> None:
    similarity, cosine = similarity_figure(similarity_data(run)).axes
    for axes, key in ((similarity, "similarity"), (cosine, "cosine")):
        matrix = np.ma.filled(axes.images[0].get_array(), np.nan)
        for a, b in combinations(range(len(run.tasks)), 2):
            expected = run.similarity["pairs"][f"{run.tasks[a]}+{run.tasks[b]}"][key]
            assert matrix[a, b] == matrix[b, a] == expected
        assert np.isnan(matrix.diagonal()).all()


def test_kept_scores_are_drawn_against_similarity(run: RunRecord) -> None:
    points = similarity_data(run)["points"]
    lines = [line for line in kept_figure(points).axes[0].lines if "+" in str(line.get_label())]
    assert [line.get_xydata().tolist() for line in lines] == [
        [[point["similarity"], point["kept"]]] for point in points
    ]
    assert len(lines) == len(list(combinations(run.tasks, 2)))


def test_parts_are_drawn_where_they_have_a_value() -> None:
    layers = {
        "x+y": {
            "embed": {"similarity": 0.9, "cosine": 0.1},
            "norm": {"similarity": None, "cosine": 0.2},
            "frozen": {"similarity": None, "cosine": None},
        }
    }
    similarity, cosine = parts_figure({"layers": layers}).axes
    assert [label.get_text() for label in similarity.get_yticklabels()] == ["embed", "norm"]
    np.testing.assert_equal(similarity.lines[0].get_xdata(), [0.9, np.nan])
    np.testing.assert_equal(cosine.lines[0].get_xdata(), [0.1, 0.2])


def test_svg_holds_real_text(run: RunRecord, tmp_path: Path) -> None:
    (file,) = save(archive_figure(run.archives(), run.tasks, experts(run)), tmp_path / "archives.svg")
    texts = {element.text for element in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")}
    assert {f"expert {task}" for task in run.tasks} | {"empty"} <= texts


def test_the_same_figure_gives_the_same_bytes(run: RunRecord, tmp_path: Path) -> None:
    first, second = (save(similarity_figure(similarity_data(run)), tmp_path / f"{name}.svg")[0] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("run", [3], indirect=True)
def test_the_command_draws_everything(run: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--generations", "0", "20", "--model", "30", "--formats", "png", "svg"]
    main(["figures", str(run.folder), "--out", str(tmp_path), *arguments])
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = [
        "archives",
        "archives-0",
        "archives-20",
        "lineage-30",
        "curve",
        "cost",
        "results",
        "similarity",
        "kept",
    ]
    assert files == [tmp_path / f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    for png, svg in zip(files[::2], files[1::2], strict=True):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_archives_are_drawn_as_they_were(unfinished: Path) -> None:
    run = read_run(unfinished)
    figures = run_figures(run, generations=[0, 2])
    for generation in (0, 2):
        figure = figures[f"archives-{generation}"]
        for axes, archive in zip(figure.axes, run.archives(3 + generation), strict=False):
            (mesh,) = axes.collections
            assert mesh.get_array().count() == len(archive)
            assert mesh.get_clim() == figures["archives"].axes[0].collections[0].get_clim()


def test_long_names_stay_in_their_panels() -> None:
    names = ["coding", "database_questions", "operating system", "instruction following", "camouflage_and_leaves"]
    assert wrap(names[1], 13) == "database_\nquestions"
    archives = [Archive(task, [tuple(np.linspace(0, 1, 4))] * 5) for task in range(2)]
    figure = archive_figure(archives, names, [Elite(0, (0.5,) * 5)])
    FigureCanvasAgg(figure).draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes[:12]]
    labels = [part.label.get_window_extent() for axes in figure.axes[:12] for part in (axes.xaxis, axes.yaxis)]
    for box, panel in zip(boxes, figure.axes, strict=False):
        others = [label for k, label in enumerate(labels) if figure.axes[k // 2] is not panel]
        assert not any(panel.get_window_extent().overlaps(label) for label in others)
        assert box.x0 >= 0


def test_the_command_draws_a_run_that_is_still_going_on(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["figures", str(unfinished), "--formats", "svg"])
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == ["archives.svg", "lineage.svg", "curve.svg", "cost.svg"]
    assert all(path.parent == unfinished / "figures" and path.exists() for path in written)


def test_the_command_says_what_is_missing(unfinished: Path, tmp_path: Path, refuse: Callable[..., str]) -> None:
    assert "holds no evolution yet" in refuse("figures", tmp_path)
    assert "formats" in refuse("figures", tmp_path, "--formats", "gif")
    taken = tmp_path / "taken"
    taken.touch()
    assert "out: expected a folder, got the file" in refuse("figures", unfinished, "--out", taken)
    assert "generations: expected 0 to 5" in refuse("figures", unfinished, "--generations", 0, 6)
    assert "knows no parents of model 99" in refuse("figures", unfinished, "--model", 99)
