"""
All pairwise distances, and a map of the digits
===============================================

Which handwritten digits look alike? The distances between all pairs answer it, and a map on which
distances are kept as well as two dimensions can shows it.
"""

# %%
# The digits come with the repository: :download:`digits.npy </../examples/data/digits.npy>`.
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse.linalg
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

import shmmap

digits = shmmap.asshared(np.load("../data/digits.npy"), dtype=float)
n = len(digits)


# %%
# The function gets index ranges and fills its rows of a shared array. What it writes is there at
# once; nothing is sent back, and nobody writes where another one does.
def fill(start, stop):
    for i in range(start, stop):
        distances[i] = np.abs(digits - digits[i]).sum(axis=1)


distances = shmmap.empty((n, n))

began = time.perf_counter()
shmmap.pmap_ranges(fill, n)
seconds = time.perf_counter() - began

# %%
# Classical scaling: the two leading eigenvectors of the centred squares are the map.
squares = distances**2
centred = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
values, vectors = scipy.sparse.linalg.eigsh(centred, k=2, v0=np.ones(n))
places = vectors * np.sqrt(values)

# %%
# Every digit is a dot, and some are shown, where there is room:
figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
ax.scatter(*places.T, s=4, alpha=0.5)
shown = places[:1]
for place, row in zip(places, digits, strict=True):
    if np.linalg.norm(shown - place, axis=1).min() > 0.05 * np.ptp(places):
        shown = np.vstack([shown, place])
        picture = OffsetImage(row.reshape(8, 8), zoom=2, cmap="gray_r")
        ax.add_artist(AnnotationBbox(picture, place, pad=0.1))
ax.set(xticks=[], yticks=[], title="digits that look alike lie close together")
plt.show()

# %%
# What it cost: each pair is computed twice, once for either row, which is simpler than sharing out
# a triangle.
np.fill_diagonal(distances, np.inf)
i, j = np.unravel_index(distances.argmin(), distances.shape)
print(
    f"{n * n:,} distances in {seconds:.2f} s; most alike: digits {i} and {j}, {distances[i, j]:.0f} apart"
)

# %%
# More of this: :doc:`/how-to/in-place`, :doc:`/how-to/memory`.
