"""The user's code and settings, as they are now: looked at in the caller, put in force in workers.

Each file is a door of its own. In the caller `watch` looks at each call whether what a function reaches in
the user's `modules` is as it was; if not, `reach` goes through it, `versions` gives a change a version, and
`letters` tells a worker what is newer than what it knows. There `recipient` puts it in force, with
`importing`. What they look at is in `namespaces`, `carried`, `interior` and `large`, and goes to workers by
`values`. `classes` tells which class is which, `captured` which arrays and containers a function refers to.
"""
