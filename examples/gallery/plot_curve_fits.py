"""
A curve fit in every pixel
==========================

A stack of 24 exposures shows how the light of each pixel fades after a flash, and the time constant
of the decay tells what is there. So an exponential is fitted to each pixel, of which there are some
ten thousand.
"""

# %%
# The picture is a real one, stained tissue under a microscope. The decay and the noise of the
# detector are made here and stand for a measured stack, of which there is none small enough to come
# with a library.
import time
import timeit

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import skimage.data

import shmmap

tissue = skimage.data.immunohistochemistry()[:288, :288].reshape(96, 3, 96, 9)
photo = 1 - tissue.mean(axis=(1, 3)) / 255  # dark is much stain
t = np.linspace(0, 6, 24)
light, lifetime = 200 + 800 * photo, 0.7 + 2.5 * photo
stack = light[..., None] * np.exp(-t / lifetime[..., None]) + 20
stack = shmmap.asshared(np.random.default_rng(1).poisson(stack).astype(float))
stack.shape


# %%
# ``curve_fit`` knows one curve. A pixel where it does not converge is no reason to lose the others,
# so ``on_error`` says what stands in for it. The pixels are a view of the stack, and nothing is
# copied.
def decay(t, light, lifetime, dark):
    return light * np.exp(-t / lifetime) + dark


def fit(counts):
    start = counts[0] - counts[-1], 1.5, counts[-1]
    best, _ = scipy.optimize.curve_fit(decay, t, counts, start, sigma=np.sqrt(counts + 1))
    return best


def no_fit(error, start, stop):
    return np.full(3, np.nan)


began = time.perf_counter()
fits = shmmap.pmap(fit, stack.reshape(-1, 24), on_error=no_fit)
seconds = time.perf_counter() - began
fits = fits.reshape(96, 96, 3)

# %%
# One exposure, the time constants, and one pixel of each kind:
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(7.5, 2.6), layout="constrained")
left.imshow(stack[..., 0], cmap="gray")
left.set(title="first exposure", xticks=[], yticks=[])
image = middle.imshow(fits[..., 1], cmap="viridis", vmin=0.7, vmax=2.8)
middle.set(title="time constant", xticks=[], yticks=[])
figure.colorbar(image, ax=middle)
for extreme in (photo.argmin(), photo.argmax()):
    pixel = np.unravel_index(extreme, photo.shape)
    (dots,) = right.plot(t, stack[pixel], "o", ms=4)
    right.plot(t, decay(t, *fits[pixel]), color=dots.get_color())
right.set(title="two pixels", xlabel="time", ylabel="counts")
plt.show()

# %%
# What it cost: a fit takes much longer than handing a pixel out, so the gain is about that of the
# cores.
error = np.nanmedian(np.abs(fits[..., 1] / lifetime - 1))
print(f"{photo.size:,} pixels, {np.isnan(fits[..., 0]).sum()} of them without a fit")
alone = timeit.timeit(lambda: fit(stack[48, 48]), number=200) / 200
print(f"{seconds:.1f} s, {seconds / photo.size * 1e6:.0f} us per pixel")
print(f"computed here, without workers, a fit takes {alone * 1e6:.0f} us")
print(f"median error of the time constant: {error:.1%}")

# %%
# More of this: :doc:`/how-to/errors`, :doc:`/how-to/jobs-that-survive`.
