"""What is said when something is wrong.

The ground of the package: nothing here imports from another folder. Each file is a door of its own.

`exceptions` has the public exceptions, `arguments` the checks of single arguments with one wording for
each, `words` what people write who know other libraries, and `hints` warnings that point at the user's
own line.
"""
