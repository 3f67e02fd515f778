"""Addresses are shown without what opens doors."""

import pytest

from pipelines.credentials import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/api", "https://host:5000/api"),
        ("postgresql://me:s@crt@db/prefect?sslmode=on", "postgresql://db/prefect?sslmode=on"),
        ("cannot reach 'http://token@host/x': no route", "cannot reach 'http://host/x': no route"),
        ("http://host/x?a=1&api_key=secret&b=2", "http://host/x?a=1&api_key=…&b=2"),
        ("http://host/mail/me@example.org", "http://host/mail/me@example.org"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_addresses_lose_users_passwords_and_keys_and_nothing_else(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
