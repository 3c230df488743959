"""How large the report page is, and how long it takes to open.

    python benchmarks/report_page.py [--generations 1200] [--tasks 4] [--repeat 3]

Writes the page of a CycleQD run over small random models, opens it from disk in headless Chromium, and prints
megabytes, seconds to write it, seconds until it is loaded with its archives and until the last chart below them is
drawn, and milliseconds to draw the archives of another generation.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from cyqd.report.page import write_page
from tests.report.runs import make_run

REDRAW = """() => { const start = performance.now();
  for (let i = 0; i < 20; i++) { find("generation").value = 50 * i; drawArchives(); }
  return (performance.now() - start) / 20; }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=1200)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("needs Chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = make_run(Path(folder) / "run", tasks=options.tasks, generations=options.generations)
        start = time.perf_counter()
        page_file = write_page(run)
        written = time.perf_counter() - start
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        loaded, drawn, redrawn = [], [], []
        for _ in range(options.repeat):
            page = browser.new_page()
            page.goto(page_file.as_uri())
            page.wait_for_function("performance.getEntriesByName('drawn').length")
            loaded.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            drawn.append(page.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000)
            redrawn.append(page.evaluate(REDRAW))
            page.close()
        browser.close()
        size = page_file.stat().st_size / 1e6
        print(f"{size:.1f} MB, written in {written:.2f} s; loaded in {statistics.median(loaded):.2f} s,")
        print(f"all drawn in {statistics.median(drawn):.2f} s; redrawn in {statistics.median(redrawn):.0f} ms")


if __name__ == "__main__":
    main()
