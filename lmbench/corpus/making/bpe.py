"""A vocabulary of pieces, by Hugging Face's tokenizers. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from lmbench.corpus.ids import UNK
from lmbench.corpus.subwords import LONGEST_WORD, WORD_START
from lmbench.errors import LmbenchError

__all__ = ["TOKENIZER", "check_installed", "train_pieces"]

TOKENIZER = "tokenizer.json"

# More text changes the pieces little, and its words would fill memory.
_MOST_BYTES = 100_000_000


def check_installed() -> None:
    """Raises LmbenchError where tokenizers is not installed."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise LmbenchError("--tokenizer bpe needs tokenizers: pip install 'lmbench[bpe]'") from None


def train_pieces(sentences: Iterable[str], size: int, bytes_of_text: int) -> Any:
    """A `tokenizers.Tokenizer` of `size` pieces at most, learnt by BPE (Sennrich et al. 2016).

    It cuts greedily (`lmbench.corpus.subwords`). Of a long text each nth sentence is read.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    cutting = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Metaspace(WORD_START, prepend_scheme="always", split=False),
            # A greedy cut reads all that is left of a word for each of its pieces.
            pre_tokenizers.Split(Regex(f".{{1,{LONGEST_WORD}}}"), "isolated"),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = cutting
    learner.add_special_tokens([UNK])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[UNK],
        initial_alphabet=[*pre_tokenizers.ByteLevel.alphabet(), WORD_START],
    )
    step = -(-bytes_of_text // _MOST_BYTES) or 1
    learner.train_from_iterator(islice(sentences, 0, None, step), trainer)
    greedy = models.WordPiece(
        learner.get_vocab(),
        unk_token=UNK,
        continuing_subword_prefix="",
        max_input_chars_per_word=LONGEST_WORD,
    )
    tokenizer = Tokenizer(greedy)
    tokenizer.pre_tokenizer = cutting
    tokenizer.add_special_tokens([UNK])
    return tokenizer
