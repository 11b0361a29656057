"""Corpora: from text to ids.

`open_corpus` gives a `Corpus`; the `data_` functions are what `lmbench data` does, and
`lmbench.corpus.making` what `lmbench data make` does. Cutting ids into batches is in
`lmbench.corpus.batches`, which alone of this package imports torch.
"""

from lmbench.corpus.catalogue import CorpusEntry, data_get, data_info, data_list
from lmbench.corpus.corpus import Corpus, check_enough, default_corpus, open_corpus

__all__ = [
    "Corpus",
    "CorpusEntry",
    "check_enough",
    "data_get",
    "data_info",
    "data_list",
    "default_corpus",
    "open_corpus",
]
