"""
Histogram of a file larger than memory
======================================

A file holds more than may be in memory, and the histogram of its values is wanted. Here a worker
may have 128 MiB, and the file is larger than that: small enough to run in seconds, and the lines
are those for any size.
"""

# %%
# The file is made here and stands for an archive of exposures: the Hubble deep field 150 times,
# each with noise of its own. The workers write it where it belongs, an exposure at a time.
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage.data

import shmmap

folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "exposures.npy")
exposures = np.lib.format.open_memmap(path, "w+", np.uint16, (150, 800, 800))

photo = skimage.data.hubble_deep_field()[:800, :800].mean(axis=2)
sky = shmmap.asshared(100 + 10 * photo, dtype=np.float32)


def expose(i, rng):
    noise = rng.standard_normal(sky.shape, dtype=np.float32)
    return (sky + 3 * np.sqrt(sky) * noise).clip(0, 4095).astype(np.uint16)


shmmap.pmap(expose, np.arange(len(exposures)), out=exposures, rng=1)
print(f"{path.stat().st_size / 1e6:.0f} MB")


# %%
# The file is opened as a memory map. Each worker reads the chunks that it works on, and the
# histograms of chunks are added up as they come.
def count(chunk):
    return np.bincount(chunk.ravel(), minlength=4096)


exposures = shmmap.load(path, mmap_mode="r")
with shmmap.Team(memory_limit="128MiB") as team:
    began = time.perf_counter()
    histogram = shmmap.preduce(count, exposures, combine=np.add)
    seconds = time.perf_counter() - began

    try:
        team.submit(lambda: count(np.load(path))).result()
    except MemoryError as error:
        print("all at once:", error)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
left.imshow(exposures[0, 300:500, 300:500], cmap="gray", vmax=1500)
left.set(title="part of one exposure", xticks=[], yticks=[])
right.stairs(histogram, fill=True)
right.set(yscale="log", xlabel="value", ylabel="pixels", title="all exposures")
plt.show()

# %%
# What it cost: one pass over the file, and in memory a chunk for each worker.
print(f"{histogram.sum():,} values counted in {seconds:.2f} s")
del exposures
folder.cleanup()

# %%
# More of this: :doc:`/how-to/larger-than-memory`, :doc:`/how-to/reductions`.
