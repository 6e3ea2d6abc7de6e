"""Flow of prefect.yaml that runs several seeds."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.experiments.seeds import run_seeds
from flows.results import show_progress


@flow(name="seeds", persist_result=False)
def seeds(
    name: str,
    count: Annotated[int, Field(ge=2)] = 3,
    preset: str | None = None,
    overrides: list[str] | None = None,
) -> str:
    """Run the same values with several seeds and record an experiment for each.

    Args:
        name: prefix of the experiments' names; -seedN is added, from ``seed`` of params.yaml on.
        count: number of seeds.
        preset: preset to apply first.
        overrides: changed values, each as KEY=VALUE.
    """
    show_progress()
    if run_seeds(preset, overrides or (), name, count):
        raise RuntimeError("the first seed failed; see the newest flow run of train")
    return f"recorded {count} experiments as {name}-seed..."
