"""What a saved Core ML package asks of an M1's Neural Engine, read from its files alone; nothing is measured.

rules          operations known never to run there, each with its evidence
multiply_adds  the arithmetic of an operation, from declared shapes
report         every figure of one function, for programs and for people
"""
