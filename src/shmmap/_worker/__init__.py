"""The worker's side. Imports nothing of the caller's side.

Each file is a door of its own, as the clean process imports late. In reading order: `template` (the process
that workers are forked from), `prepare` (what makes a new process a worker), `worker` (attach, draw, call,
record, repeat), `part` (which chunks it runs), `cache` (what it keeps), `reporter`, `line` and `outbox`
(what it tells its caller and is told), `baseline` (what is put back between calls), `role` (whether this
process is one), `ending` (how it ends).
"""
