"""
Rolling filters
===============

The membrane of a nerve cell is recorded: spikes upon a baseline that drifts. A rolling median over
many samples finds the baseline, and it needs, for each sample, those around it.
"""

# %%
# The recording comes with Matplotlib; it is 6 s long.
import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.ndimage
from matplotlib import cbook

import shmmap

with cbook.get_sample_data("membrane.dat") as file:
    signal = shmmap.asshared(np.frombuffer(file.read(), np.float32))
seconds_of = np.arange(len(signal)) * 0.0005


# %%
# ``depth`` gives every chunk so many neighbours on each side, and takes them off its result again.
# The filter looks 300 samples far, so that is the depth.
def baseline(chunk):
    return scipy.ndimage.median_filter(chunk, size=601, mode="nearest")


began = time.perf_counter()
slow = shmmap.pmap_chunks(baseline, signal, depth=300, boundary="nearest")
seconds = time.perf_counter() - began

began = time.perf_counter()
expected = baseline(signal)
alone = time.perf_counter() - began
print("what the filter makes of the whole:", np.array_equal(slow, expected))

# %%
# Without it each chunk would be filtered as if it were all there is. The seams are wrong, and no
# error says so:
torn = shmmap.pmap_chunks(baseline, signal, chunksize=2000)
print(f"{np.count_nonzero(torn != slow):,} of {len(slow):,} samples differ")

# %%
figure, (top, bottom) = plt.subplots(2, figsize=(7, 5), sharex=True, layout="constrained")
top.plot(seconds_of, signal, lw=0.4, label="recorded")
top.plot(seconds_of, slow, lw=2, label="rolling median")
top.set(ylabel="recording")
top.legend()
bottom.plot(seconds_of, torn - slow, color="tab:red", lw=1)
bottom.set(xlabel="time in s", ylabel="without depth: error")
plt.show()

# %%
# ``check_chunks`` finds out whether a function looks beyond its chunk, before it is too late:
from shmmap.testing import ChunksDiffer, check_chunks

try:
    check_chunks(baseline, signal[:4000])
except ChunksDiffer as difference:
    print(difference)

# %%
# What it cost: each chunk is filtered together with its neighbours, which are read in place and not
# copied. On a recording of 12,000 samples there is nothing to gain; it takes a longer one.
print(f"{seconds * 1e3:.0f} ms with the start of the workers, {alone * 1e3:.0f} ms without them")

# %%
# More of this: :doc:`/how-to/stencils`.
