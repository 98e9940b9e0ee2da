"""Process the rows of a .npy file on disk, which may be larger than memory.

    python examples/rows.py [--size 2GB] [--folder FOLDER] [--keep]

Makes a file of noisy spectra (float32, 4096 samples a row), and measures position, width and
height of the peak in each. The file is memory-mapped: every worker opens it itself and reads just
its rows, so no process ever holds more than a block of it. So it is with the results, which the
workers write straight into another file. Both files are removed at the end, unless told to keep
them.
"""

import argparse
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import shmmap

SAMPLES = 4096
UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size(text):
    """Bytes, from a text such as 2GB."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


parser = argparse.ArgumentParser(description="Measure the peak in every row of a file.")
parser.add_argument("--size", type=parse_size, default="2GB", help="size of the file (2GB)")
parser.add_argument("--folder", type=Path, default=None, help="where to put it (a new folder)")
parser.add_argument("--keep", action="store_true", help="keep the files")
args = parser.parse_args()


def generate(start, stop, spectra):
    """Rows ``[start, stop)``: one Gaussian peak each, on noise of its own."""
    x = np.arange(SAMPLES, dtype=np.float32)
    for i in range(start, stop):
        rng = np.random.default_rng([2024, i])
        centre, width, height = rng.uniform([500, 20, 5], [3500, 80, 20])
        noise = rng.standard_normal(SAMPLES, dtype=np.float32)
        spectra[i] = height * np.exp(-0.5 * ((x - centre) / width) ** 2) + noise


def measure(rows):
    """Position, width and height of the peak in each row: moments of what is well above noise."""
    x = np.arange(SAMPLES, dtype=np.float64)
    smooth = np.cumsum(rows, axis=1, dtype=np.float64)
    smooth = (smooth[:, 16:] - smooth[:, :-16]) / 16
    x = x[8:-8]
    top = smooth.max(axis=1, keepdims=True)
    weight = np.maximum(smooth - top / 3, 0)
    total = weight.sum(axis=1)
    position = (weight * x).sum(axis=1) / total
    width = np.sqrt((weight * (x - position[:, None]) ** 2).sum(axis=1) / total)
    return np.stack([position, width, top[:, 0]], axis=1)


def measure_serially(spectra, block=256):
    """The same by plain NumPy, a block of rows at a time, since all rows may not fit."""
    result = np.empty((len(spectra), 3))
    for start in range(0, len(spectra), block):
        result[start : start + block] = measure(spectra[start : start + block])
    return result


n = max(1, args.size // (SAMPLES * 4))
folder = Path(tempfile.mkdtemp(prefix="shmmap-rows-", dir=args.folder))
try:
    wanted, free = n * SAMPLES * 4 + n * 24, shutil.disk_usage(folder).free
    if wanted > free:
        raise SystemExit(
            f"{wanted:,} bytes wanted, {free:,} free in {folder}: use a smaller --size"
        )

    create = partial(np.lib.format.open_memmap, mode="w+")
    spectra = create(folder / "spectra.npy", dtype=np.float32, shape=(n, SAMPLES))
    began = time.perf_counter()
    shmmap.pmap_ranges(partial(generate, spectra=spectra), n)
    spectra.flush()  # or writing to the disk would go on during what is measured next
    generate_s = time.perf_counter() - began
    print(f"made {folder / 'spectra.npy'}: {spectra.shape}, {spectra.nbytes / 1e9:.2f} GB,")
    print(f"  in {generate_s:.2f} s with shmmap")
    spectra = shmmap.load(folder / "spectra.npy", mmap_mode="r")

    peaks = create(folder / "peaks.npy", dtype=np.float64, shape=(n, 3))
    began = time.perf_counter()
    shmmap.pmap_chunks(measure, spectra, out=peaks)
    shared_s = time.perf_counter() - began

    began = time.perf_counter()
    expected = measure_serially(spectra)
    serial_s = time.perf_counter() - began
    np.testing.assert_array_equal(peaks, expected)

    print(f"measured {n:,} peaks, equal to the last bit:")
    for name, column in zip(("position", "width", "height"), peaks.T, strict=True):
        print(f"  {name:<9}{column.mean():9.2f} +- {column.std():.2f}")
    print(f"{serial_s:.2f} s serial NumPy, {shared_s:.2f} s shmmap")
    if args.keep:
        print(f"kept {folder}")
finally:
    if not args.keep:
        shutil.rmtree(folder)
