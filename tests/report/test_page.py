"""The report page in a real browser, opened from disk; compared with the run's own archives."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from cyqd.__main__ import main
from cyqd.evolution.archive import Archive, Elite
from cyqd.report.figures.style import EMPTY
from cyqd.report.page import PICTURE_BYTES, write_page
from cyqd.report.record import RunRecord, read_run
from tests.report.conftest import Opened
from tests.report.runs import make_run

pytestmark = pytest.mark.browser
GENERATIONS = 40
QUALITIES = "archive => { const [a, b] = find(`map-${archive}`).data; return run.tasks.length == 2 ? [a.y] : b.z; }"
PIXEL = """([archive, x, y]) => {
  const map = find(`map-${archive}`), { xaxis, yaxis } = map._fullLayout;
  map.scrollIntoView({ block: "center", behavior: "instant" });
  const box = map.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
}"""


def change(path: Path, edit) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def projected(archive: Archive, x: int, y: int | None) -> list[list[float | None]]:
    """Say what a map shows: the best quality at each place, row by row."""
    axes = [task for task in range(len(archive.edges)) if task != archive.task]
    bins = [len(edges) - 1 for edges in archive.edges]
    rows: list[list[float | None]] = [[None] * bins[x] for _ in range(1 if y is None else bins[y])]
    for cell, elite in archive.cells.items():
        place = dict(zip(axes, cell, strict=True))
        row, column = rows[0 if y is None else place[y]], place[x]
        row[column] = max(archive.quality(elite), row[column] or 0.0)
    return rows


def middle(record: RunRecord, task: int, score: float) -> float:
    """Return the middle of the bin that holds a score."""
    edges = record.edges[task]
    inside = [k for k, edge in enumerate(edges[:-1]) if edge <= score]
    k = inside[-1] if inside else 0
    return (edges[k] + edges[k + 1]) / 2


def point_at(shown: Opened, record: RunRecord, archive: int, elite: Elite) -> tuple[float, float]:
    """Return the pixel of an elite's cell, on the axes that a page shows at first."""
    axes = [task for task in range(len(record.tasks)) if task != archive][:2]
    x, *others = (middle(record, task, elite.scores[task]) for task in axes)
    return tuple(shown.at(PIXEL, [archive, x, others[0] if others else elite.scores[archive] / 2]))


@pytest.fixture(scope="module", params=[2, 3, 4], ids="K={}".format)
def run(request, tmp_path_factory) -> RunRecord:
    folder = tmp_path_factory.mktemp(f"tasks{request.param}") / "run"
    return read_run(make_run(folder, tasks=request.param, generations=GENERATIONS))


@pytest.fixture(scope="module")
def shown(run, open_page) -> Opened:
    shown = open_page(write_page(run.folder))
    yield shown
    assert shown.problems == []
    shown.page.close()


@pytest.fixture(scope="module")
def long_page(tmp_path_factory, open_page) -> tuple[RunRecord, Opened]:
    """A run as long as the paper's."""
    folder = make_run(tmp_path_factory.mktemp("long") / "run", tasks=4, generations=1200)
    shown = open_page(write_page(folder))
    yield read_run(folder), shown
    assert shown.problems == []
    shown.page.close()


def test_opens_from_disk_and_tells_what_was_run(run, shown):
    text = shown.page.inner_text("main")
    assert shown.problems == []
    assert f"{len(run.evaluations)} of {len(run.evaluations)}" in text
    assert all(f"models/{task}" in text for task in run.tasks)
    assert "CycleQD aggregate ★" in text
    assert "selection elite" in text


def test_results_are_those_of_the_run(run, shown):
    cells = shown.page.locator("#results tbody tr").first.locator("td").all_inner_texts()
    row = run.results["rows"][0]
    wanted = [*row["tasks"].values(), row["mean"]]
    assert [cell.split() for cell in cells] == [
        [f"{c['mean']:.3f}", f"{c['low']:.3f}", "–", f"{c['high']:.3f}"] for c in wanted
    ]
    best = max(row["mean"]["mean"] for row in run.results["rows"])
    assert f"{best:.3f}" in shown.page.locator("#results td.best").last.inner_text()


@pytest.mark.parametrize("generation", [0, 1, GENERATIONS // 2, GENERATIONS])
def test_slider_shows_the_archives_of_that_generation(run, shown, generation):
    shown.page.locator("#generation").fill(str(generation))
    for archive in run.archives(len(run.tasks) + generation):
        x, *others = [task for task in range(len(run.tasks)) if task != archive.task]
        assert shown.at(QUALITIES, archive.task) == projected(archive, x, others[0] if others else None)
        cells = shown.page.locator("#statistics tbody tr").nth(archive.task).locator("th, td").all_inner_texts()
        qualities = [archive.quality(elite) for elite in archive]
        assert cells[:2] == [run.tasks[archive.task], str(len(archive))]
        wanted = [100 * archive.coverage, archive.qd_score, max(qualities), sum(qualities) / len(qualities)]
        assert abs(float(cells[2].removesuffix(" %")) - wanted[0]) <= 0.051
        assert [float(cell) for cell in cells[3:]] == pytest.approx(wanted[1:], abs=0.0051)


def test_slider_obeys_the_keyboard(run, shown):
    shown.page.locator("#generation").fill("7")
    shown.page.locator("#generation").press("ArrowRight")
    assert shown.at("find('generation-label').textContent") == f"8 of {GENERATIONS}"
    assert shown.page.get_attribute("#generation", "aria-valuetext") == "generation 8"


def test_play_runs_to_the_last_generation(shown):
    shown.page.locator("#generation").fill(str(GENERATIONS - 3))
    shown.page.click("#play")
    assert shown.page.inner_text("#play") == "❚❚"
    shown.page.wait_for_function(f"find('generation-label').textContent == '{GENERATIONS} of {GENERATIONS}'")
    assert shown.page.inner_text("#play") == "▶"


def test_pointing_at_a_cell_tells_its_model(run, shown):
    shown.page.locator("#generation").fill(str(GENERATIONS))
    archive = run.archives()[0]
    elite = max((e for e in archive if e.id >= len(run.tasks)), key=archive.quality)
    shown.page.mouse.move(*point_at(shown, run, 0, elite))
    shown.page.wait_for_selector(".hoverlayer .hovertext")
    text = shown.page.locator(".hoverlayer .hovertext").text_content()
    line = run.evaluations[elite.id]
    parts = [f"{c:.3f} × {p}" for c, p in zip(line["coefficients"], line["parents"], strict=True)]
    cell = ",".join(map(str, archive.cell_of(elite.scores)))
    wanted = [
        f"cell {run.tasks[0]}:{cell}",  # as ``export --cell`` takes it
        f"model {elite.id}, generation {line['generation']}",
        *(f"{task} {score:.3f}" for task, score in line["scores"].items()),
        f"mean {elite.mean:.3f}",
        f"parents: {' + '.join(parts)}",
        "α: " + ", ".join(f"{t} {share:.2f}" for t, share in zip(run.tasks, run.shares[elite.id], strict=True)),
    ]
    assert [part for part in wanted if part not in text] == [], text


def test_clicking_a_cell_shows_its_lineage(run, shown):
    archive = run.archives()[-1]
    elite = max((e for e in archive if e.id >= len(run.tasks)), key=archive.quality)
    shown.page.mouse.click(*point_at(shown, run, archive.task, elite))
    assert shown.page.input_value("#chosen") == str(elite.id)
    assert sorted(shown.at("find('lineage-chart').data[1].customdata"), reverse=True) == run.ancestors(elite.id)
    ancestors = run.ancestors(elite.id)
    shares = [run.shares[elite.id][k] for k, task in enumerate(run.tasks) if run.experts[task] in ancestors]
    assert shown.at("find('shares-chart').data[0].x") == pytest.approx(shares)


def test_lineage_can_be_chosen_from_a_list(run, shown):
    archives = run.archives()
    offered = [int(value) for value in shown.at("[...find('chosen').options].map((each) => each.value)")]
    mean = max((e for archive in archives for e in archive), key=lambda e: (e.mean, e.id))
    best = [max(archive, key=lambda e: (archive.quality(e), e.id)).id for archive in archives]
    assert offered[: len(best) + 1] == [mean.id, *best]
    assert set(offered) == {e.id for archive in archives for e in archive}
    last = offered[-1]
    shown.page.select_option("#chosen", index=len(offered) - 1)
    assert sorted(shown.at("find('lineage-chart').data[1].customdata"), reverse=True) == run.ancestors(last)
    edges = shown.at("find('lineage-chart').data[0].x")
    assert len(edges) == 3 * sum(len(run.evaluations[m].get("parents", [])) for m in run.ancestors(last))


def test_curve_shows_every_model_and_the_best_so_far(run, shown):
    means = [elite.mean for elite in run.elites]
    assert shown.at("find('curve-chart').data[0].y") == pytest.approx(means)
    assert shown.at("find('curve-chart').data[1].y")[-1] == pytest.approx(max(means))


def test_similarity_is_that_of_the_run(run, shown):
    matrix = shown.at("find('similarity-chart').data[0].z")
    assert matrix[0][0] is None
    assert matrix[0][1] == matrix[1][0] == run.similarity["pairs"]["task0+task1"]["similarity"]
    known = [values["similarity"] for values in run.similarity["pairs"].values()]
    limits = shown.at("(({ zmin, zmax }) => [zmin, zmax])(find('similarity-chart').data[0])")
    assert limits == [min(0.9, *known), 1]
    named = shown.at("find('kept-chart').data.map((pair) => pair.name.replace(' + ', '+'))")
    assert sorted(named) == sorted(run.similarity["pairs"])
    parts = shown.page.locator("#similarity details").last
    assert parts.locator("tbody tr").all_text_contents()[1].split() == [
        "mlp",
        *(text for value in known for text in (f"{value:.4f}", "/", "0.0100")),
    ]
    assert "The experts are alike." in shown.page.inner_text("#similarity")


def test_a_run_of_the_papers_length_is_small_and_quick(long_page):
    record, shown = long_page
    assert (record.folder / "report.html").stat().st_size <= 15_000_000
    assert shown.page.evaluate("performance.getEntriesByName('drawn')[0].startTime") < 20_000
    assert shown.page.inner_text("#generation-label") == "1200 of 1200"


def test_any_two_axes_of_four_tasks_can_be_shown(long_page):
    record, shown = long_page
    archive = record.archives()[1]
    shown.page.select_option("#x-1", label="task3")
    assert shown.at(QUALITIES, 1) == projected(archive, 3, 2)
    shown.page.select_option("#y-1", label="task3")  # taken by the other axis: they change places
    assert shown.page.input_value("#x-1") == "2"
    assert shown.at(QUALITIES, 1) == projected(archive, 2, 3)
    shown.page.select_option("#x-1", label="task0")
    assert shown.at(QUALITIES, 1) == projected(archive, 0, 3)
    assert shown.at(QUALITIES, 0) == projected(record.archives()[0], 1, 2)  # the others stay


def test_fits_a_phone(long_page):
    _, shown = long_page
    shown.page.set_viewport_size({"width": 400, "height": 800})
    charts = "[...document.querySelectorAll('.main-svg')]"
    shown.page.wait_for_function(f"{charts}.every((chart) => chart.getBoundingClientRect().right <= 400)")
    assert shown.at("document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("tasks", [2, 3])
def test_empty_and_zero_look_different(tmp_path, open_page, tasks):
    folder = make_run(tmp_path / "run", tasks=tasks, generations=0)
    history = folder / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    lines[1]["scores"]["task0"] = 0.0
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_run(folder)
    shown = open_page(write_page(folder))
    zero = next(elite for elite in record.archives()[0] if elite.scores[0] == 0)
    values = [value for row in shown.at(QUALITIES, 0) for value in row]
    assert 0 in values
    assert values.count(None) == len(values) - len(record.archives()[0])
    x, y = point_at(shown, record, 0, zero)
    colours = [Image.open(io.BytesIO(shown.page.screenshot())).convert("RGB").getpixel((round(x), round(y)))]
    if tasks == 3:
        assert colours == [(68, 1, 84)]
    else:  # a bar without height: its cap lies on the axis
        assert max(colours[0]) < 60
    empty = values.index(None)
    edges = record.edges
    bins = len(edges[1]) - 1
    place = [
        0,
        *((edges[axis][k] + edges[axis][k + 1]) / 2 for axis, k in ((1, empty % bins), (tasks - 1, empty // bins))),
    ]
    x, y = shown.at(PIXEL, place if tasks == 3 else [0, place[1], 0.1])
    colours.append(Image.open(io.BytesIO(shown.page.screenshot())).convert("RGB").getpixel((round(x), round(y))))
    assert colours[1] == ImageColor.getrgb(EMPTY)
    shown.page.close()


def test_a_run_that_is_going_on(tmp_path, open_page):
    folder = make_run(tmp_path / "run", tasks=3, generations=2, results=False)
    shown = open_page(write_page(folder))
    assert "no results yet" in shown.page.inner_text("#going-on")
    assert shown.page.locator("#results table").count() == 0
    assert shown.page.inner_text("#generation-label") == "2 of 2"
    for chart in ("lineage", "curve", "time"):
        ticks = shown.at(f"find('{chart}-chart')._fullLayout.xaxis._vals.map((tick) => tick.x)")
        assert ticks == [0, 1, 2]
    assert shown.problems == []
    shown.page.close()


def test_a_run_that_was_continued_tells_its_old_results_from_what_is_new(tmp_path):
    folder = make_run(tmp_path / "run", tasks=2, generations=9)
    assert 'id="going-on"' not in write_page(folder).read_text()
    change(folder / "results.json", lambda results: results.update(evaluations=5, budget=5))
    page = write_page(folder).read_text()
    assert "gone on since its results" in page
    assert "<strong>After 5 models.</strong>" in page
    assert "<dd>11 of 11</dd>" in page


@pytest.mark.parametrize("scored", [0, 1])
def test_a_run_that_has_just_begun(tmp_path, open_page, scored):
    folder = make_run(tmp_path / "run", tasks=3, generations=0, results=False)
    change(folder / "evolution/state/state.json", lambda state: state.update(archives=[], evaluated=scored))
    shown = open_page(write_page(folder))
    assert shown.page.locator("#archives").count() == 0
    assert ("No model has been scored yet" in shown.page.inner_text("#curve")) == (scored == 0)
    assert shown.problems == []
    shown.page.close()


def test_a_strategy_without_archives_or_parents(tmp_path, open_page):
    folder = make_run(tmp_path / "run", tasks=3, generations=9)
    change(folder / "evolution/state/state.json", lambda state: state.pop("archives"))
    own = {"generation", "expert", "active", "parents", "coefficients", "entered"}
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines = [{key: value for key, value in line.items() if key not in own} for line in lines]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = open_page(write_page(folder))
    assert shown.page.locator("#archives, #lineage").count() == 0
    assert len(shown.at("find('curve-chart').data[0].y")) == 12
    assert shown.problems == []
    shown.page.close()


def test_children_that_are_no_weighted_sum_of_their_parents(tmp_path, open_page):
    folder = make_run(tmp_path / "run", tasks=3, generations=GENERATIONS, crossover="split")
    shown = open_page(write_page(folder))
    run = read_run(folder)
    bred = max((e for archive in run.archives() for e in archive), key=lambda e: e.id)
    shown.page.select_option("#chosen", value=str(bred.id))
    assert sorted(shown.at("find('lineage-chart').data[1].customdata"), reverse=True) == run.ancestors(bred.id)
    parents = run.evaluations[bred.id]["parents"]
    assert f"parents: {parents[0]}, {parents[1]}" in shown.at("find('lineage-chart').data[1].text.at(-1)")
    assert shown.at("find('shares-chart').data[0].x") == []
    assert shown.problems == []
    shown.page.close()


def test_names_are_text_wherever_they_stand(tmp_path, open_page):
    folder = make_run(tmp_path / "run", tasks=4, generations=9)
    name = "</script><img src=x onerror=alert(1)>%{y}'\"&<b>"
    for path in [*folder.glob("*.json*"), *folder.glob("*.yaml"), folder / "evolution/state/state.json"]:
        quoted = json.dumps(name)[1:-1]
        text = path.read_text()
        path.write_text(text.replace("task0", quoted if path.suffix != ".yaml" else "task0"))
    shown = open_page(write_page(folder))
    assert shown.page.locator("#archives figcaption").first.inner_text() == name
    assert shown.page.locator("img").count() == 0
    record = read_run(folder)
    shown.page.mouse.move(*point_at(shown, record, 0, record.archives()[0].elites[-1]))
    shown.page.wait_for_selector(".hoverlayer .hovertext")
    assert name[:20] in shown.page.locator(".hoverlayer .hovertext").text_content()
    assert shown.problems == []
    shown.page.close()


def test_pictures_and_faults(tmp_path, open_page):
    folder = make_run(tmp_path / "run", tasks=2, generations=3)
    (folder / "pictures").mkdir()
    Image.new("RGB", (40, 20), "red").save(folder / "pictures" / "leaf.png")
    (folder / "pictures" / "too_large.png").write_bytes(bytes(PICTURE_BYTES))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines[:2]:
        line["faults"] = {"task1/<7>": "the environment broke"}
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = open_page(write_page(folder))
    assert shown.at("[...document.images].map((image) => image.naturalWidth)") == [40]
    assert "too_large.png" in shown.page.inner_text("#pictures")
    row = shown.page.locator("#time table.plain tbody tr").inner_text().split("\t")
    assert row == ["task1/<7>", "fault", "2", "the environment broke"]
    assert shown.problems == []
    shown.page.close()


def test_the_command(tmp_path, refuse, capfd):
    folder = make_run(tmp_path / "run", tasks=2, generations=1)
    main(["report", str(folder), "--out", str(tmp_path / "page.html")])
    assert str(tmp_path / "page.html") in capfd.readouterr().out
    assert (tmp_path / "page.html").stat().st_size > 1_000_000
    assert "holds no evolution yet" in refuse("report", tmp_path / "nothing")
    assert f"expected a file to write, got the folder {tmp_path}" in refuse("report", folder, "--out", tmp_path)
