"""The user's code and settings, as they are now: looked at in the caller, put in force in workers.

Each file is a door of its own. In the caller `reach` finds what a function refers to in the user's
`modules`, by way of `interior` and `state`, and gives each change a version; in a worker `recipient`
applies what is newer. `classes` tells which class is which, `captured` which arrays and containers a
function refers to.
"""
