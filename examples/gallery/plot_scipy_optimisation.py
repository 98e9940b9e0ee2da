"""
Optimisation with SciPy
=======================

Where on the moon was a small picture taken, how was it turned, and at what scale? The misfit has
many valleys, so a global optimiser of SciPy searches, and with a team it computes a whole
generation of trials at once.
"""

# %%
# The photograph is a real one. The small picture is cut out of it here, turned and scaled, and noise
# is added.
import time
import timeit

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
import scipy.optimize
import skimage.data

import shmmap

moon = shmmap.asshared(scipy.ndimage.gaussian_filter(skimage.data.moon().astype(float), 2))
y, x = np.mgrid[-64:64, -64:64]


def cut(row, column, angle, scale):
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    at = [row + c * y - s * x, column + s * y + c * x]
    return scipy.ndimage.map_coordinates(moon, at, order=1, mode="nearest")


truth = 160.0, 300.0, 0.6, 0.8
picture = shmmap.asshared(cut(*truth) + np.random.default_rng(1).normal(0, 5, y.shape))


# %%
# The team is an executor, and its ``map`` is what SciPy takes for ``workers``. With
# ``updating="deferred"`` a whole generation is handed out at once. The moon is shared: what is sent
# for a trial is its four numbers.
def misfit(where):
    return 1 - np.corrcoef(cut(*where).ravel(), picture.ravel())[0, 1]


bounds = (90, 420), (90, 420), (-np.pi, np.pi), (0.5, 1.5)
with shmmap.Team() as team:
    began = time.perf_counter()
    best = scipy.optimize.differential_evolution(
        misfit, bounds, popsize=15, rng=3, workers=team.map, updating="deferred", tol=1e-3
    )
    seconds = time.perf_counter() - began
for name, found, true in zip(("row", "column", "angle", "scale"), best.x, truth, strict=True):
    print(f"{name:<8}{found:8.2f}   in truth {true:6.2f}")

# %%
corners = 64 * np.array([[-1, -1, 1, 1, -1], [-1, 1, 1, -1, -1]])
row, column, angle, scale = best.x
c, s = np.cos(angle) / scale, np.sin(angle) / scale
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.5, 2.8), layout="constrained")
left.imshow(picture, cmap="gray")
left.set(title="the small picture")
middle.imshow(moon, cmap="gray")
middle.plot(
    column + s * corners[0] + c * corners[1],
    row + c * corners[0] - s * corners[1],
    color="tab:orange",
)
middle.set(title="where it was found")
right.imshow(cut(*best.x), cmap="gray")
right.set(title="the moon there")
for ax in (left, middle, right):
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# What it cost: a trial is so short here that handing it over counts, and the gain, if there is one,
# is less than that of the cores. Where a trial is a simulation of seconds, handing it over does not
# count.
alone = timeit.timeit(lambda: misfit(truth), number=200) / 200
print(f"{best.nfev:,} trials in {seconds:.1f} s, {seconds / best.nfev * 1e3:.2f} ms each")
print(f"computed here, without a team, a trial takes {alone * 1e3:.2f} ms")

# %%
# More of this: :doc:`/how-to/executors`, :doc:`/how-to/other-libraries`.
