"""
Rolling filters
===============

Where does the land stand above what is around it? From each point of an elevation model, the median
of its surroundings is taken off, so ridges and valleys show and the slope of the whole does not.
"""

# %%
# The elevations come with Matplotlib: a fault near Jacksboro, Tennessee, in metres.
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
from matplotlib import cbook

import shmmap
from shmmap.testing import ChunksDiffer, check_chunks

with cbook.get_sample_data("jacksboro_fault_dem.npz") as file:
    land = shmmap.asshared(file["elevation"], dtype=np.float32)


# %%
# The filter looks 15 rows far. ``depth`` gives every chunk so many neighbours on each side, and
# takes them off its result again.
def around(rows):
    return scipy.ndimage.median_filter(rows, size=31, mode="nearest")


began = time.perf_counter()
smooth = shmmap.pmap_chunks(around, land, depth=15, boundary="nearest")
seconds = time.perf_counter() - began

# %%
# Without ``depth`` each chunk is filtered as if it were all there is. The seams are wrong, and
# nobody is told:
torn = shmmap.pmap_chunks(around, land, chunksize=86)

pictures = {
    "elevation": (land, "viridis"),
    "above the surroundings": (land - smooth, "PuOr_r"),
    "without depth: error": (torn - smooth, "PuOr_r"),
}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), layout="constrained")
for ax, (title, (picture, colours)) in zip(axes, pictures.items(), strict=True):
    limit = {} if title == "elevation" else {"vmin": -90, "vmax": 90}
    shown = ax.imshow(picture, cmap=colours, **limit)
    ax.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=ax, orientation="horizontal")
plt.show()

# %%
# ``check_chunks`` finds out whether a function looks beyond its chunk, before it is too late:
try:
    check_chunks(around, land[:60, :60])
except ChunksDiffer as difference:
    print(difference)

# %%
# What it cost: the rows at the limits of chunks are filtered twice; they are read in place and not
# copied. A program's first map also starts the workers, which is in its time.
began = time.perf_counter()
expected = around(land)
print(f"map {seconds:.2f} s, without workers {time.perf_counter() - began:.2f} s")
print("equal to the last bit:", np.array_equal(smooth, expected))

# %%
# More of this: :doc:`/how-to/stencils`.
