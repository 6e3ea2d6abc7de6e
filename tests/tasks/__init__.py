"""What the tests of several kinds share."""

from typing import Any

import pytest

from albef.losses import itm


@pytest.fixture
def argmax_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixtures were made with the most likely negative instead of a drawn one."""
    monkeypatch.setattr(itm, "draw", lambda weights, generator: weights.argmax(1))


def results(patch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """What a function of a module gives from now on, call by call."""
    found, function = [], getattr(module, name)

    def call(*given: Any) -> Any:
        found.append(function(*given))
        return found[-1]

    patch.setattr(module, name, call)
    return found
