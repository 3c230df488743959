"""Materialising needs hardly more memory than the live model; base and experts stay mapped files."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, environment


@pytest.mark.slow
def test_materialise_stays_within_1_3_times_the_model() -> None:
    command = [sys.executable, "-m", "benchmarks.vit_h", "--architecture", "vit_b", "--blocks", "1", "--no-image"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    peak = re.search(r"\(([\d.]+) × without the", done.stdout)
    assert peak is not None, done.stdout
    assert 1.0 <= float(peak[1]) <= 1.3
