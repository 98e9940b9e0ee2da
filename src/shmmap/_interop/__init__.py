"""Objects of other libraries, none of which is imported unless the user has imported it.

Each file is one kind of object and a door of its own.
"""
