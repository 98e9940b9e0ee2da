"""The examples run as they are, at a small size; the data beside them is what it says."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = EXAMPLES / "data"


def run(name, *args, cwd):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, args)],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_digits(tmp_path):
    out = run("digits.py", cwd=tmp_path)
    assert out.startswith("digits.npy: (1797, 64), uint8, 115,008 bytes\n")
    steps = re.findall(r"^(\w+): .* ms NumPy .* ms shmmap$", out, re.MULTILINE)
    assert steps == ["pmap_chunks", "pmap", "pmap", "pmap_ranges", "preduce"]


@pytest.mark.slow
def test_images(tmp_path):
    pytest.importorskip("skimage")
    image = pytest.importorskip("PIL.Image")
    out = run("images.py", "--out", tmp_path / "pictures", "--limit", 3, cwd=tmp_path)
    written = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in written] == ["astronaut.png", "brick.png", "camera.png"]
    for path in written:
        with image.open(path) as picture:
            assert (picture.size, picture.mode) == ((512, 512), "RGB")
            assert np.asarray(picture).std() > 10
    assert "equal to the last byte" in out
    assert re.search(r"^[\d.]+ s serial NumPy, [\d.]+ s shmmap$", out, re.MULTILINE)


def test_rows(tmp_path):
    out = run("rows.py", "--size", "20MB", "--folder", tmp_path, cwd=tmp_path)
    assert "(1220, 4096), 0.02 GB" in out
    assert "measured 1,220 peaks, equal to the last bit" in out
    assert re.search(r"^[\d.]+ s serial NumPy, [\d.]+ s shmmap$", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_kept_if_asked(tmp_path):
    run("rows.py", "--size", "1MB", "--folder", tmp_path, "--keep", cwd=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["peaks.npy", "spectra.npy"]
    assert np.load(folder / "peaks.npy").shape == (61, 3)


def test_data():
    digits = np.load(DATA / "digits.npy")
    assert (digits.shape, digits.dtype, digits.min(), digits.max()) == ((1797, 64), np.uint8, 0, 16)
    text = (DATA / "README.md").read_text()
    assert hashlib.sha256((DATA / "digits.npy").read_bytes()).hexdigest() in text
    assert "CC BY 4.0" in text
