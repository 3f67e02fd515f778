"""Which text a recipe trains, calibrates and measures on: the ``data:`` block."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

EMBEDDED = "embedded"
TOPICS = "topics"
_KINDS = (
    "a .txt, .jsonl or .parquet file, a folder of them, or hub:NAME, hub:NAME:CONFIG, each with @REVISION "
    "(a dataset of the Hugging Face hub)"
)


class DataSettings(BaseModel):
    """Text by name; it is split by content into train (90 %), calibration (5 %) and held-out (5 %)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: Annotated[
        str,
        Field(
            min_length=1,
            description="text that is trained, calibrated and measured on: 'embedded' (the docstrings of numpy, scipy, "
            f"pandas, scikit-learn and torch as installed), {_KINDS}",
        ),
    ] = EMBEDDED
    column: Annotated[
        str, Field(min_length=1, description="key or column that holds the text in .jsonl, .parquet and hub data")
    ] = "text"
    other: Annotated[
        str,
        Field(
            min_length=1,
            description="text of another kind, only ever measured on, never trained or calibrated on: 'topics' "
            f"(Python's own language reference, pydoc_data.topics), {_KINDS}",
        ),
    ] = TOPICS
