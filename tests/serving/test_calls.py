"""Every call of the runtime has its endpoint, and every endpoint its line of the reference."""

from pathlib import Path

from albef.runtime.loading import CAPABILITIES
from albef.serving.routes.calls import CALLS, router

DOCS = Path(__file__).parents[2] / "docs"


def test_every_call_is_served_and_documented() -> None:
    calls = {
        call
        for capability in CAPABILITIES.values()
        for call in (capability.main, *capability.extra_calls)
    }
    assert calls == CALLS.keys()
    reference = (DOCS / "how-to/serve.md").read_text()
    for path in CALLS.values():
        assert f"| `POST {path}` |" in reference
    assert all(route.endpoint.__doc__ for route in router.routes)  # type: ignore[attr-defined]
