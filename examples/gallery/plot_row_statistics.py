"""
Statistics of every row
=======================

1797 handwritten digits are the rows of one array. How much does each of them lean, how heavy is its
ink, and which are the extremes?
"""

# %%
# ``load`` reads the file into memory that the workers share. The file comes with the repository:
# :download:`digits.npy </../examples/data/digits.npy>`.
import time

import matplotlib.pyplot as plt
import numpy as np

import shmmap

digits = shmmap.load("../data/digits.npy")  # one image of 8 x 8 pixels per row


# %%
# The function is written for one row. It returns two numbers, so the map gives two arrays.
def slant_and_weight(row):
    image = row.reshape(8, 8).astype(float)
    y, x = np.mgrid[:8, :8]
    ink = image.sum()
    x, y = x - (image * x).sum() / ink, y - (image * y).sum() / ink
    return -7 * (image * x * y).sum() / (image * y * y).sum(), ink / 16


slant, weight = shmmap.pmap(slant_and_weight, digits)

# %%
# The rows with the least and the greatest slant, and all of them:
order = np.argsort(slant)
rows = "abcdefgh;SSSSSSSS;SSSSSSSS"
figure, axes = plt.subplot_mosaic(rows, figsize=(7, 5), layout="constrained")
for name, i in zip("abcdefgh", [*order[:4], *order[-4:]], strict=True):
    axes[name].imshow(digits[i].reshape(8, 8), cmap="gray_r")
    axes[name].set(title=f"{slant[i]:+.1f}", xticks=[], yticks=[])
axes["S"].scatter(slant, weight, s=6, alpha=0.6)
axes["S"].set(xlabel="lean to the right, in pixels", ylabel="ink, in full pixels")
plt.show()

# %%
# What it cost: an array this small takes a plain loop little time as well, so there is not much to
# gain; the more a function does with a row, and the more rows there are, the more of all cores is
# seen.
began = time.perf_counter()
expected = [slant_and_weight(row) for row in digits]
loop = time.perf_counter() - began

began = time.perf_counter()
result = shmmap.pmap(slant_and_weight, digits)
print(f"loop {loop * 1e3:.0f} ms, map {(time.perf_counter() - began) * 1e3:.0f} ms")
print("equal to the last bit:", np.array_equal(np.transpose(expected), result))

# %%
# More of this: :doc:`/tutorial`, :doc:`/performance`.
