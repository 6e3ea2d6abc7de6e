"""Run an exported model in ONNX Runtime. This package does not import torch.

>>> import albef.runtime
>>> model = albef.runtime.load("products/exports/retrieval")
>>> model.embed_image(["dog.png"]) @ model.embed_text(["a dog", "two apples"]).T
>>> model.match(["dog.png"], ["a dog"])  # probability that the text is the caption of the image
"""

from albef.runtime.loading import load as load

__all__ = ["load"]
