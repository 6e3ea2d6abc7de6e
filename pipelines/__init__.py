"""One module per stage, run as ``python -m pipelines.NAME``: files in, files out."""

import albef as albef  # before ONNX Runtime, which it keeps from sending usage data
