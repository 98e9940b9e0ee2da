"""Even out light and shadow in a list of real photographs, and write the pictures out.

    pip install "shmmap[images]"
    python examples/images.py [--out FOLDER] [--limit N]

The photographs are those that come with scikit-image. Reading, processing and writing all happen
in the workers, so only paths go out, and only a line about each picture comes back. A list is no
array, so the results are a list too, in the order of the paths.
"""

import argparse
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import shmmap

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)

parser = argparse.ArgumentParser(description="Even out light and shadow in photographs.")
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output", metavar="FOLDER")
parser.add_argument("--limit", type=int, help="at most so many photographs")
args = parser.parse_args()


def box_mean(image, radius):
    """The mean over a square around every pixel, by running sums; edges repeat."""
    width = 2 * radius + 1
    for axis in (0, 1):
        rows = np.swapaxes(image, 0, axis)
        edges = [(radius + 1, radius)] + [(0, 0)] * (image.ndim - 1)
        sums = np.cumsum(np.pad(rows, edges, mode="edge"), axis=0)
        image = np.swapaxes((sums[width:] - sums[:-width]) / width, 0, axis)
    return image


def even_out(image, radius=24):
    """Every pixel against the mean and the spread of what is around it: detail, less shadow."""
    image = image.astype(np.float64) / 255
    mean = box_mean(image, radius)
    spread = np.sqrt(np.maximum(box_mean(image * image, radius) - mean * mean, 0))
    detail = 0.5 + 0.22 * (image - mean) / (spread + 0.05)
    return (np.clip(0.3 * image + 0.7 * detail, 0, 1) * 255).astype(np.uint8)


def process(path, folder):
    """Read one photograph, write it processed, and say what was done."""
    with Image.open(path) as photograph:
        image = np.asarray(photograph.convert("RGB"))
    result = even_out(image)
    target = folder / f"{path.stem}.png"
    Image.fromarray(result).save(target)
    return target.name, image.shape, image.std(), result.std()


available = [Path(str(files("skimage") / "data" / name)) for name in PHOTOGRAPHS]
paths = [path for path in available if path.is_file()][: args.limit]
if not paths:
    raise SystemExit("no photographs: this needs those of scikit-image, pip install scikit-image")
args.out.mkdir(parents=True, exist_ok=True)

shmmap.pmap(Path.is_file, paths)  # starts the team, outside the timings

began = time.perf_counter()
done = shmmap.pmap(lambda path: process(path, args.out), paths, chunksize=1)
shared_s = time.perf_counter() - began

for (name, (height, width, _), before, after), path in zip(done, paths, strict=True):
    print(f"{path.name:<24}{width:5} x {height:<5} spread {before:5.1f} -> {after:5.1f}   {name}")

with TemporaryDirectory() as folder:
    began = time.perf_counter()
    expected = [process(path, Path(folder)) for path in paths]
    serial_s = time.perf_counter() - began
    assert done == expected
    for name, *_ in done:
        assert (args.out / name).read_bytes() == (Path(folder) / name).read_bytes(), name

print(f"{len(paths)} pictures in {args.out}, equal to the last byte")
print(f"{serial_s:.2f} s serial NumPy, {shared_s:.2f} s shmmap")
