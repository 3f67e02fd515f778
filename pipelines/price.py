"""What a million tokens cost on a machine that costs so much an hour; in the currency of the recipe's price."""

MILLION = 1e6


def per_million(price_per_hour: float, tokens_per_second: float) -> float:
    """Price of a million tokens at this speed, the machine doing nothing else meanwhile."""
    return price_per_hour / 3600 / tokens_per_second * MILLION


def prices(price_per_hour: float | None, prefill: float | None, decode: float | None) -> dict[str, float | None]:
    """Price of a million tokens that are read and of a million that are written; None where one of both is unknown."""
    speeds = {"price_input": prefill, "price_output": decode}
    return {
        name: per_million(price_per_hour, speed) if price_per_hour and speed else None for name, speed in speeds.items()
    }
