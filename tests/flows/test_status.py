"""What `albef status` says of a stage."""

from flows.status import condense


def test_of_many_reasons_the_first_are_named() -> None:
    reasons = [f"albef/models/{name}.py changed" for name in "abcdefgh"]
    assert list(condense(reasons[:6])) == reasons[:6]
    assert list(condense(reasons)) == [*reasons[:6], "and 2 more"]
    assert list(condense([])) == []
