"""
Normalisation in place
======================

Small patches of photographs are to be learnt from, and first each is brought to mean 0 and spread
1. They fill an array that one does not want twice, so the result goes where the input was.
"""

# %%
# Patches of 16 x 16 pixels from three textures, one in every 4 pixels, into shared memory:
import time

import matplotlib.pyplot as plt
import numpy as np
import skimage.data

import shmmap

photos = [skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()]
windows = [np.lib.stride_tricks.sliding_window_view(p, (16, 16))[::4, ::4] for p in photos]
patches = shmmap.empty((3 * 125 * 125, 256), dtype=np.float32)
patches.reshape(3, 125, 125, 16, 16)[:] = windows
before = patches[::9000].copy()


# %%
# The input is the output as well. A chunk is a view of the array, and each worker has one chunk in
# hand, so little is needed beside it. The patches of even grey have no spread and stay 0.
def normalise(chunk):
    chunk = chunk - chunk.mean(axis=1, keepdims=True)
    spread = chunk.std(axis=1, keepdims=True)
    return np.divide(chunk, spread, out=chunk, where=spread > 0)


began = time.perf_counter()
shmmap.pmap_chunks(normalise, patches, out=patches)
seconds = time.perf_counter() - began

# %%
# What there is to learn: the directions in which the patches differ most, of their covariance. This
# is a reduction, again over chunks.
covariance = shmmap.preduce(lambda chunk: chunk.T @ chunk, patches, combine=np.add)
values, vectors = np.linalg.eigh(covariance / len(patches))

figure, axes = plt.subplots(3, 6, figsize=(7, 3.8), layout="constrained")
for k in range(6):
    axes[0, k].imshow(before[k].reshape(16, 16), cmap="gray", vmin=0, vmax=255)
    axes[1, k].imshow(patches[9000 * k].reshape(16, 16), cmap="gray", vmin=-2.5, vmax=2.5)
    axes[2, k].imshow(vectors[:, -1 - k].reshape(16, 16), cmap="coolwarm")
for ax, label in zip(axes[:, 0], ("patches", "normalised", "components"), strict=True):
    ax.set_ylabel(label)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# What it cost: such a function does little for each byte, so the gain is bounded by how fast memory
# is read and written. What is saved for certain is the memory of a second array.
print(f"{patches.nbytes / 1e6:.0f} MB in {seconds * 1e3:.0f} ms")
print(f"the first 6 components have {values[-6:].sum() / values.sum():.0%} of the variance")

# %%
# More of this: :doc:`/how-to/in-place`, :doc:`/how-to/reductions`.
