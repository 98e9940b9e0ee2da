"""
Images from files
=================

A folder holds photographs of different sizes. For an overview, all are read and measured, and each
is cut down to a thumbnail.
"""

# %%
# The folder is the one of scikit-image's own photographs.
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skimage
from skimage import color, io, transform

import shmmap

names = "astronaut brick camera cell chelsea coffee coins grass gravel ihc moon page".split()
folder = Path(skimage.__file__).parent / "data"
paths = [folder / f"{name}.png" for name in names]


# %%
# The map is over paths. Only these go to the workers, and only what the function returns comes
# back: a list is no array, so the results are a list too, in the order of the paths.
def look(path):
    image = io.imread(path)
    image = color.gray2rgb(image) if image.ndim == 2 else image[..., :3]
    side = min(image.shape[:2])
    thumbnail = transform.resize(image[:side, :side], (96, 96), anti_aliasing=True)
    saturation = color.rgb2hsv(thumbnail)[..., 1].mean()
    rough = np.abs(np.diff(color.rgb2gray(thumbnail), axis=0)).mean()
    return thumbnail, saturation, rough, image.size


began = time.perf_counter()
looks = shmmap.pmap(look, paths, chunksize=1)  # a photograph at a time: they differ in size
seconds = time.perf_counter() - began

# %%
# From plain to colourful:
looks_of = sorted(zip(names, looks, strict=True), key=lambda pair: pair[1][1])
figure, axes = plt.subplots(3, 4, figsize=(7, 6), layout="constrained")
for ax, (name, (thumbnail, saturation, rough, _)) in zip(axes.flat, looks_of, strict=True):
    ax.imshow(thumbnail)
    ax.set(xticks=[], yticks=[], title=name)
    ax.set_xlabel(f"colour {saturation:.2f}, detail {rough:.3f}", fontsize=8)
plt.show()

# %%
# What it cost: at best the time of the largest photograph, once there are as many workers as
# photographs. The first map of a program also starts the workers and lets them import scikit-image,
# which is in this time.
read = sum(size for *_, size in looks)
print(f"{len(paths)} files, {read / 1e6:.1f} MB of pixels, {seconds:.1f} s")

# %%
# More of this: :doc:`/how-to/images`. A file that cannot be read: :doc:`/how-to/errors`.
