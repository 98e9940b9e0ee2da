"""
Bootstrap of a correlation
==========================

Monthly returns of two shares go together, but how sure is that with a few hundred months? The
bootstrap draws the months again with replacement, many thousand times, and looks how the
correlation varies.
"""

# %%
# Prices from 1990 on come with Matplotlib, ten companies and indices, a column each.
import time

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import cbook

import shmmap

with cbook.get_sample_data("Stocks.csv") as file:
    prices = np.genfromtxt(
        file, delimiter=",", skip_header=1, names=True, dtype=None, encoding="utf-8"
    )
prices.dtype.names[1:]

# %%
pair = np.stack([prices["IBM"], prices["MSFT"]])
returns = np.diff(np.log(pair[:, np.isfinite(pair).all(axis=0)]))
returns.shape


# %%
# With ``rng=`` the function gets a generator of its own for each index. The stream belongs to the
# index, so the result depends on the seed and on nothing else: not on the workers, not on who is
# faster.
def resample(i, rng):
    months = rng.integers(returns.shape[1], size=returns.shape[1])
    return np.corrcoef(returns[:, months])[0, 1]


began = time.perf_counter()
drawn = shmmap.pmap(resample, np.arange(20_000), rng=2026)
seconds = time.perf_counter() - began
low, high = np.percentile(drawn, [2.5, 97.5])

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
left.scatter(*returns, s=8, alpha=0.6)
left.set(xlabel="return of IBM", ylabel="return of Microsoft", title="months")
right.hist(drawn, bins=80)
for limit in (low, high):
    right.axvline(limit, color="tab:orange")
right.set(xlabel="correlation", title="resampled")
plt.show()

# %%
# What it cost: a resampling is short, so the workers draw many indices at a time.
print(
    f"correlation {np.corrcoef(returns)[0, 1]:.2f}, 95% of {len(drawn):,} in [{low:.2f}, {high:.2f}]"
)
print(f"{seconds:.1f} s, {seconds / len(drawn) * 1e6:.0f} us each")
again = shmmap.pmap(resample, np.arange(20_000), rng=2026, workers=1)
print("the same on one worker, to the last bit:", np.array_equal(drawn, again))

# %%
# More of this: :doc:`/how-to/random-numbers`.
