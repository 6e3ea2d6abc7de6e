"""``albef run --seeds N``: run the same values with several seeds, one experiment for each.

The first seed runs in the work tree. The others are trained and evaluated in clones. All share the
data, which have a separate seed.
"""

from collections.abc import Sequence

from albef.config import ParamsError, read_yaml
from albef.layout import PARAMS
from flows import graph, values
from flows.experiments import variations
from flows.experiments.clone import Variation
from flows.run import run


def run_seeds(preset: str | None, overrides: Sequence[str], name: str | None, count: int) -> int:
    """Run the values in the work tree, then with further seeds in clones; return the exit code.

    The names of the experiments begin with ``name``.

    Raises:
        ParamsError: the name is missing, or code is not committed.
        CloneError: a training in a clone failed.
    """
    if not name:
        raise ParamsError(
            "--seeds needs --name EXPERIMENT, with which the experiments' names begin"
        )
    variations.clean()
    values.prepare(preset, overrides)
    first = int(read_yaml(PARAMS)["seed"])
    names = {seed: f"{name}-seed{seed}" for seed in range(first, first + count)}
    if code := run(name=names[first]):
        return code
    text = PARAMS.read_text()
    further = [
        Variation(names[seed], values.overridden(text, [f"seed={seed}"]))
        for seed in range(first + 1, first + count)
    ]
    targets = [node for node in graph.read() if node.partition("@")[0] == "evaluate"]
    variations.run([further], targets, 1, graph.LOCK.read_text())
    print(
        f"\nrecorded as experiments {', '.join(names.values())}\n"
        f"`albef compare {' '.join(names.values())}` shows their spread"
    )
    return 0
