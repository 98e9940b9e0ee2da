"""What ``against.py`` is made of; one module per concern.

========  =====================================================================
work      what is mapped: the functions, the data, one `Work` per figure
figures   the figures: title, `Work`, unit, targets
peers     how each library does a `Work`, as its own documentation recommends
scripts   the figures that need a fresh interpreter per sample
calls     the kinds of call, and how the library is asked for each
counting  function calls, counted in the caller and in the workers
host      one peer, in an interpreter of its own, sampled on command
measure   starts hosts, interleaves their samples, collects them
memory    proportional set size of a process tree
machine   what this ran on
report    tables, JSON, the generated blocks of README and docs
plot      the picture for the docs
========  =====================================================================

Every peer lives in its own interpreter (a *host*), so that no peer inherits the threads, the
imports or the page tables of another, and the memory of its process tree can be told apart. The
samples are interleaved: one of each peer, then the next round, in rotating order.
"""
