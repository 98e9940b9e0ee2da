"""The four verbs on a real array: 1797 handwritten digits of 8 x 8 pixels.

    python examples/digits.py

Each step prints how long plain NumPy takes and how long shmmap takes, and checks that both say the
same. The array is small (115 kB), so the cheap steps gain nothing from a team of processes: that is
what the first and the last line show. The dear ones do.
"""

import time
from functools import partial
from pathlib import Path

import numpy as np

import shmmap

DIGITS = Path(__file__).parent / "data" / "digits.npy"


def timed(call):
    """The result of ``call()`` and the seconds it took, in the faster of two runs."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, min(seconds)


def compare(title, serial, shared):
    """Run both, check that they agree to the last bit, and print their times."""
    expected, serial_s = timed(serial)
    result, shared_s = timed(shared)
    np.testing.assert_array_equal(result, expected)
    print(f"{title:<42}{serial_s * 1e3:9.1f} ms NumPy {shared_s * 1e3:9.1f} ms shmmap")
    return result


def normalize(rows):
    """Every digit with mean 0 and length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    rows /= np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return rows.astype(np.float32)


def neighbours(row, rows, k=5):
    """Indices of the `k` rows most like `row`, itself first."""
    return np.argsort(np.square(rows - row).sum(axis=1), kind="stable")[:k]


def slant(row):
    """How many pixels a digit leans to the right from its bottom row to its top row."""
    image = row.reshape(8, 8).astype(float)
    y, x = np.mgrid[:8, :8]
    ink = image.sum()
    x, y = x - (image * x).sum() / ink, y - (image * y).sum() / ink
    return -7 * (image * x * y).sum() / (image * y * y).sum()


digits = shmmap.load(DIGITS)  # an ordinary ndarray, in memory that the workers see too
print(f"{DIGITS.name}: {digits.shape}, {digits.dtype}, {digits.nbytes:,} bytes")
shmmap.pmap_ranges(lambda start, stop: None, len(digits))  # starts the team, outside the timings

# A block of rows at a time, vectorised.
unit = compare(
    "pmap_chunks: normalise",
    lambda: normalize(digits),
    lambda: shmmap.pmap_chunks(normalize, digits),
)

# One row at a time; one number per row comes back as one array.
slants = compare(
    "pmap: slant of each digit",
    lambda: np.array([slant(row) for row in digits]),
    lambda: shmmap.pmap(slant, digits),
)

# One row at a time against all rows: the second input goes whole to every call, without a copy.
nearest = compare(
    "pmap: 5 nearest of each digit",
    lambda: np.array([neighbours(row, unit) for row in unit]),
    lambda: shmmap.pmap(neighbours, unit, unit, axis=(0, None)),
)

# Index ranges: the function does as it likes with the shared arrays that it closes over.
distances = shmmap.empty((len(unit), len(unit)), dtype=np.float32)


def fill(start, stop, out):
    for i in range(start, stop):
        out[i] = np.sqrt(np.square(unit - unit[i]).sum(axis=1))


def fill_serially():
    out = np.empty_like(distances)
    fill(0, len(unit), out)
    return out


def fill_shared():
    shmmap.pmap_ranges(partial(fill, out=distances), len(unit))
    return distances


compare("pmap_ranges: all distances", fill_serially, fill_shared)

# Chunks folded to partial results, and those combined. Integers, so that every order is exact.
total = compare(
    "preduce: ink of all digits",
    lambda: digits.sum(axis=0, dtype=np.int64),
    lambda: shmmap.preduce(partial(np.sum, axis=0, dtype=np.int64), digits),
)

print(
    f"mean slant {slants.mean():+.2f} pixels, between {slants.min():+.2f} and {slants.max():+.2f}"
)
first, second = nearest[np.argmin(distances[nearest[:, 0], nearest[:, 1]]), :2]
print(f"most alike: digits {first} and {second}, {distances[first, second]:.3f} apart")
print("the mean digit:")
for row in (total / len(digits)).reshape(8, 8):
    print("   " + "".join(" .:-=+*#%@"[int(value * 9 / 16)] * 2 for value in row))
