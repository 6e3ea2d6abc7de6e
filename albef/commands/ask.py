"""``albef ask IMAGE "question"``: the answers of a checkpoint, the most probable first."""

from pathlib import Path

from albef.config import ParamsError
from albef.export.torch_model import load
from albef.io import printable
from albef.runtime.answering import Answering


def main(checkpoint: Path, image: Path, question: str, k: int) -> None:
    """Print the ``k`` best answers and their probabilities."""
    if not question.strip():
        raise ParamsError("the question is empty; ask, for example, 'how many keys are there?'")
    if not image.is_file():
        raise ParamsError(f"image {image} does not exist")
    model = load(checkpoint)
    if not isinstance(model, Answering):
        raise ParamsError(
            f"{checkpoint} is of kind {model.facts.kind}, which does not answer questions; use a "
            "run of kind vqa"
        )
    (best,) = model.ask([image], [question], k)
    width = max(len(answer.text) for answer in best)
    for answer in best:
        print(f"{printable(answer.text):{width}}  {answer.probability:6.1%}")
