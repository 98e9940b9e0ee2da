"""
A scan of parameters
====================

Coins are to be counted in a photograph that is lit unevenly. How many are found depends on how far
the picture is smoothed and where the threshold lies, so both are scanned, and the answer is where
the count does not change.
"""

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
import skimage.data

import shmmap

coins = shmmap.asshared(skimage.data.coins(), dtype=float)
background = shmmap.asshared(scipy.ndimage.gaussian_filter(coins, 40))


# %%
# A point of the grid is a dictionary of keyword arguments, and the map is over the list of points.
# The photograph is shared, so it is not copied for any of them.
def count(smooth, threshold):
    image = scipy.ndimage.gaussian_filter(coins, smooth) - background
    labels, _ = scipy.ndimage.label(scipy.ndimage.binary_fill_holes(image > threshold))
    sizes = np.bincount(labels.ravel())[1:]
    return int(np.count_nonzero(sizes > 200))


smooths, thresholds = np.linspace(0.5, 6, 12), np.linspace(0, 60, 25)
grid = [{"smooth": s, "threshold": t} for s, t in itertools.product(smooths, thresholds)]

with shmmap.profile() as report:
    counts = shmmap.pmap(lambda point: count(**point), grid)

# %%
# The count that comes out most often is that of the coins, and a point amid its plateau is a good
# choice:
table = np.reshape(counts, (len(smooths), len(thresholds)))
found = np.bincount(table[table > 0]).argmax()
inside = scipy.ndimage.distance_transform_edt(np.pad(table == found, 1))[1:-1, 1:-1]
s, t = np.unravel_index(inside.argmax(), table.shape)
image = scipy.ndimage.gaussian_filter(coins, smooths[s]) - background

figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
shown = left.pcolormesh(thresholds, smooths, table, cmap="PuOr", vmin=found - 8, vmax=found + 8)
left.plot(thresholds[t], smooths[s], "o", color="tab:red")
left.set(xlabel="threshold", ylabel="smoothing, in pixels", title="coins found")
figure.colorbar(shown, ax=left)
right.imshow(coins, cmap="gray")
right.contour(scipy.ndimage.binary_fill_holes(image > thresholds[t]), [0.5], colors="tab:red")
right.set(xticks=[], yticks=[], title=f"{found} coins")
plt.show()

# %%
# What it cost: the report says what each worker did, and what there is to gain.
print(report)

# %%
# More of this: :doc:`/how-to/parameter-grids`, :doc:`/how-to/profile`.
