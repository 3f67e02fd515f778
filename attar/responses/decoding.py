"""How an answer is written, token by token: equal for a model on disk and for an endpoint. Torch-free."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def seed_of(self, key: str) -> int:
        """Seed of one prompt: the same answer whatever was answered before it, or not."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{key}".encode()).digest()[:4], "big") >> 1
