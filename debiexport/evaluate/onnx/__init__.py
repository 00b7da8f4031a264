"""Running a saved ONNX model as its types say, on any machine.

ONNX Runtime computes float16 graphs in float32 where a CPU has no float16 kernels, so that what overflows in
float16 comes out finite. Here every node is computed wide and its result is rounded to the declared type.

`graph` reads what the file says, `types` infers the type of every tensor, `evaluator` computes it.
"""
