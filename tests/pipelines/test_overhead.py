"""The measure of overhead fails where a median is over what is asked, and only there."""

import pytest
from overhead import MOST, too_much

KEPT = {name: 0.9 * most for name, most in MOST.items()}


@pytest.mark.parametrize("name", MOST)
def test_a_median_over_what_is_asked_is_told(name: str) -> None:
    over = KEPT | {name: 1.1 * MOST[name]}
    assert too_much([KEPT, KEPT, over]) == []
    (said,) = too_much([over, KEPT, over])
    assert said.startswith(f"{name}: ")
    assert too_much([KEPT | {name: float("nan")}])
