"""What the operations of ONNX compute (opsets 18 to 20); `table` has them all.

A function takes the inputs of its operation by position, None for one that is left out, and its attributes by
name: tensors as torch tensors (floating-point numbers as float32 whatever their declared type, float64 alone
as itself). It may ask for two things more: `outputs`, the declared types of its results (None for one that is
left out), and `opset`. It gives one tensor or a tuple, neither rounded nor checked. A ValueError, IndexError
or RuntimeError says that its arguments do not fit each other.
"""
