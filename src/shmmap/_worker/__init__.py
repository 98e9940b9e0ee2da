"""The worker's side. Imports nothing of the caller's side.

Each file is a door of its own, as the clean process imports late: `template` (the process that workers are
forked from), `prepare` (what makes a new process a worker), `worker` (attach, draw, call, record, repeat),
`reporter` (what it tells its caller), `ending` (how it ends).
"""
