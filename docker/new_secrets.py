"""Writes ``docker/.env``, a new random value for every secret of the compose file: ``python3 docker/new_secrets.py``

An existing file is left alone: the databases keep the passwords that they were made with.
"""

import os
import re
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMANDED = re.compile(r"\$\{(\w+):\?")


def main(target: Path) -> int:
    names = sorted(set(DEMANDED.findall((HERE / "compose.yaml").read_text())))
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{target} exists and was left as it is; to begin anew, remove it and the volumes", file=sys.stderr)  # noqa: T201
        return 2
    with open(handle, "w") as file:
        file.writelines(f"{name}={secrets.token_urlsafe(24)}\n" for name in names)
    print(f"{target} holds {len(names)} new secrets; the user of both servers is attar")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(HERE / ".env"))
