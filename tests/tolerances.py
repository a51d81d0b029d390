"""Every tolerance of the tests, with its reason. Tests hold no bare number."""

# Exported float files against the torch student: other order of sums only. Measured 4e-6 on logits of size 5.
FP32_EXPORT_MAX_ABS_LOGIT = 1e-4

# One int8 graph in two engines: ONNX rounds at the same places as TFLite, but the mean and the bias round
# differently. Measured 1 output step on a trained DSCNN, 3 on other networks.
INT8_ENGINES_MAX_STEPS = 4

# int8 against float logits, signal to quantisation noise. Measured 28 dB trained, 24 dB and more with random weights.
INT8_MIN_SQNR_DB = 18.0
# One scale for a whole weight instead of one per channel. Measured 29 dB with random weights, against 38 dB.
INT8_PER_TENSOR_MIN_SQNR_DB = 10.0

# Size of int8 files. Above 1 byte per parameter: biases, scales and zero points per channel, then the graph.
INT8_MAX_BYTES_PER_PARAMETER = 1.2
INT8_GRAPH_BYTES = 16_000
# Beyond weights and, per channel, bias and scale: a DSCNN's 37 operators. Measured 4.7 kB and 9.8 kB.
INT8_ONNX_GRAPH_BYTES = 5_200
INT8_TFLITE_GRAPH_BYTES = 10_300

# The same sums in torch over tensors of other shapes: order of float32 additions only. Measured 2e-6.
TORCH_SAME_SUMS = {"rtol": 1e-4, "atol": 1e-5}

# A stream against windows, both float32: the same products, summed by kernels of other shapes. Measured 3e-7 of the
# largest logit in torch; what streaming could get wrong (a step too early) is of the size of the logits.
STATEFUL_FP32_RELATIVE = 1e-5
# The same in int8: sums are whole numbers, so only the float rounding of kernels that look at other shapes can differ.
# Measured 0.
STATEFUL_INT8_MAX_STEPS = 1.001
# Smoothed scores of events of a stateful stream: probabilities of logits within the tolerance above.
STREAM_SCORE = 1e-5

# Smoothed scores of a stream on ARM against those on this machine, printed with six digits. float32: other CPUs order
# their sums differently; measured 0. int8: measured 0 by the same libraries, and 1.3e-4 by tflite-runtime's kernels.
ARM_SCORE_FP32 = 1e-5
ARM_SCORE_INT8 = 1e-3
