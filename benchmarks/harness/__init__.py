"""What ``against.py`` is made of; one module per concern.

==========  ===================================================================
work        what is mapped: the functions, the data, one `Work` per figure
figures     the figures: title, `Work` or kind of call, unit, targets
results     what was measured of one, and what it has to reach
peers       how each library does a `Work`, as its own documentation recommends
scripts     the figures that need a fresh interpreter per sample
host        one peer, in an interpreter of its own, sampled on command
hosts       the same, from the side of who measures
calls       the kinds of call, and how the library is asked for each
call_peers  how everybody does a kind of call
call_host   one kind of call by everybody, in turns, in one interpreter
counting    function calls, counted in the caller and in the workers
measure     starts hosts, interleaves their samples, collects them
memory      what a process tree takes: proportional set size, processor time
machine     what this ran on, and how busy it was
report      tables, JSON
documents   the generated blocks of README and docs
plot        the pictures
==========  ===================================================================

For a `Work` every peer lives in its own interpreter (a *host*), so that no peer inherits the threads,
the imports or the page tables of another, and the memory of its process tree can be told apart. The
samples are interleaved: one of each peer, then the next round, in rotating order.
"""
