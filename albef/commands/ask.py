"""``albef ask IMAGE "question"``: the answers of a run's checkpoint, the most probable first."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from albef.config import ParamsError, nearest, read_yaml, validate
from albef.layout import PARAMS, Layout, Paths

KIND = "vqa"


def main(arguments: list[str] | None = None) -> None:
    """The command; what is wrong is told in one sentence, exit code 1."""
    parser = argparse.ArgumentParser(
        prog="albef ask", description="Answers to a question about a picture."
    )
    parser.add_argument("image", metavar="IMAGE", help="a PNG, JPEG or WebP file")
    parser.add_argument("question", help="as 'how many keys are there?'")
    parser.add_argument("--run", default=KIND, help="the run whose checkpoint answers")
    parser.add_argument("-k", type=int, default=5, help="how many answers")
    options = parser.parse_args(arguments)
    try:
        _ask(options)
    except (ValueError, OSError) as error:
        print(f"albef ask: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _ask(options: argparse.Namespace) -> None:
    if not options.question.strip():
        raise ParamsError("the question is empty; ask something, as 'how many keys are there?'")
    if options.k < 1:
        raise ParamsError(f"-k {options.k}: at least one answer")
    image = Path(os.environ.get("ALBEF_FROM", ".")) / options.image
    if not image.is_file():
        raise ParamsError(f"there is no picture at {image}")
    params = read_yaml(PARAMS)
    layout = Layout(validate(Paths, params.get("paths"), where=str(PARAMS), key="paths"))
    _check(params, options.run)

    from albef.export.torch_model import load

    (best,) = load(layout.model(options.run)).ask([image], [options.question], options.k)
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


if __name__ == "__main__":
    main()
