"""``albef ask IMAGE "question"``: the answers of a run's checkpoint, the most probable first."""

from pathlib import Path
from typing import Any

from albef.config import ParamsError, nearest, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths

KIND = "vqa"


def main(image: Path, question: str, run: str = KIND, k: int = 5) -> None:
    """Print the answers and their probabilities.

    Args:
        image: the picture.
        question: about it.
        run: the run whose checkpoint answers.
        k: how many answers.

    Raises:
        ParamsError: no such picture or run, or an empty question.
        CheckpointError: the run has not been trained.
    """
    if not question.strip():
        raise ParamsError("the question is empty; ask something, as 'how many keys are there?'")
    if k < 1:
        raise ParamsError(f"-k {k}: at least one answer")
    if not image.is_file():
        raise ParamsError(f"there is no picture at {image}")
    params = read_yaml(PARAMS)
    layout = Layout(validate(Paths, params.get("paths"), where=str(PARAMS), key="paths"))
    _check(params, run)

    from albef.export.torch_model import load

    (best,) = load(layout.model(run)).ask([image], [question], k)
    width = max(len(answer.text) for answer in best)
    for answer in best:
        print(f"{answer.text:{width}}  {answer.probability:6.1%}")


def _check(params: dict[str, Any], run: str) -> None:
    """That ``run`` is one of the runs that answer questions."""
    tasks = params.get("tasks")
    runs = tasks if isinstance(tasks, dict) else {}
    able = [name for name, own in runs.items() if isinstance(own, dict) and own.get("kind") == KIND]
    if run in able:
        return
    if run in runs:
        what = f"{PARAMS}: the run {run} is not of kind {KIND}, so it answers no questions"
    else:
        what = f"{PARAMS} has no run {run!r} under tasks"
    near = nearest(run, able)
    hint = f"did you mean {near}?" if near else f"runs of kind {KIND}: {', '.join(able) or 'none'}"
    raise ParamsError(f"{what}; {hint}")
