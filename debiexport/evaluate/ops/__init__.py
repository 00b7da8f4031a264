"""What the operations of a program compute; `table` has them all.

A function takes the parameters of its operation by the names of the file format, with their defaults: tensors
as torch tensors (floating-point numbers as float32 whatever their declared type), text as str, and what takes
several values as a list. It may ask for two things more: `outputs`, the declared types of its results, and
`ios`, the version of the operations as the system that brought them. It gives one tensor or a tuple, neither
rounded nor checked. A ValueError, IndexError or RuntimeError says that its arguments do not fit each other.
"""
