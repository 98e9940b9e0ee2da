"""Where the time of maps goes: what `profile()` notes, and what it reports.

Files are doors themselves. `log` is what is noted while maps run; `records` what a report holds, as plain
data. It is drawn by `plot`, `page` and `trace`.
"""
