"""Running a saved Core ML package (an ML Program) on any machine, from its files alone.

`package` finds the files, `program` reads what they say, `evaluator` computes it. None of them imports a
converter: only the classes of the protobuf format and NumPy, and torch where something is computed.
"""
