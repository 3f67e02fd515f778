"""Text: where it comes from, how it is split, and how it becomes windows of tokens.

>>> corpus = open_corpus(DataSettings(), cache=Path(".attar/cache"))
>>> windows = corpus.windows("calibration", model.tokenizer_file, count=64, length=512, seed=0)
"""

from attar.data.corpus import Corpus, Measured, open_corpus
from attar.data.documents import SPLITS, Document, Split
from attar.data.settings import DataSettings

__all__ = ["SPLITS", "Corpus", "DataSettings", "Document", "Measured", "Split", "open_corpus"]
