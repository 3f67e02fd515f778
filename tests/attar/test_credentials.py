"""Addresses are shown without what opens doors."""

import pytest

from attar.credentials import without_credentials

S3 = "https://h/f?X-Amz-Date=1&"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:5000/api", "https://host:5000/api"),
        ("postgresql://me:s@crt@db/prefect?sslmode=on", "postgresql://db/prefect?sslmode=on"),
        ("cannot reach 'http://token@host/x': no route", "cannot reach 'http://host/x': no route"),
        ("http://host/x?a=1&api_key=secret&b=2", "http://host/x?a=1&api_key=…&b=2"),
        (
            "https://h/f?X-Amz-Date=1&X-Amz-Security-Token=ab%2Fc&X-Amz-Signature=0f",
            f"{S3}X-Amz-Security-Token=…&X-Amz-Signature=…",
        ),
        ("https://h/f?access_token=abc&Policy=eyJ&Key-Pair-Id=K", "https://h/f?access_token=…&Policy=…&Key-Pair-Id=…"),
        ("http://h/#/experiments/1?viewStateShareKey=ab", "http://h/#/experiments/1?viewStateShareKey=ab"),
        ("{'Authorization': 'Bearer hf_abc', 'x': 1}", "{'Authorization': '…', 'x': 1}"),
        ("curl -H 'Authorization: Basic bWU6cHc='", "curl -H 'Authorization: …'"),
        ("sent with bearer abcdefgh1234", "sent with bearer …"),
        ("token hf_abcdefghijklmnopqrst is not valid", "token … is not valid"),
        ("1,024 tokens a window; key=value; batch=4", "1,024 tokens a window; key=value; batch=4"),
        ("http://host/mail/me@example.org", "http://host/mail/me@example.org"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_addresses_lose_users_passwords_and_keys_and_nothing_else(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_what_the_environment_keeps_secret_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pa/ss@word:1")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:long-enough")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert without_credentials("login with pa/ss@word:1 failed; pa%2Fss%40word%3A1") == "login with … failed; …"
    assert without_credentials("401 for admin:long-enough; false") == "401 for …; false"
