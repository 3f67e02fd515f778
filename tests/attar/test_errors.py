"""What other libraries say, made fit for a sentence of ours."""

import pytest

from attar.errors import first_line


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no way to http://user:word@host:5000/api", "no way to http://host:5000/api"),
        ("postgresql+psycopg2://u:p%40w@db/x and https://token@host", "postgresql+psycopg2://db/x and https://host"),
        ("https://user:p@ss@host/a is away", "https://host/a is away"),
        ("https://host/a@b is fine, and so is me@home", "https://host/a@b is fine, and so is me@home"),
        ("first\nsecond", "first"),
        ("", "ValueError"),
    ],
)
def test_one_line_without_passwords(said: str, told: str) -> None:
    assert first_line(ValueError(said)) == told


def test_a_long_address_loses_its_password_before_it_is_cut() -> None:
    assert "word" not in first_line(ValueError("x" * 180 + " http://user:" + "word" * 20 + "@host/"))
