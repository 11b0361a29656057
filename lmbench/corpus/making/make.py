"""``lmbench data make``: from files to a corpus, in two passes over them. No torch here.

The first pass tokenises what goes to valid and test and takes their shingles; the second tokenises
train, leaves out what nearly repeats them, and counts words. Tokens wait on disk until the
vocabulary is known. Nothing in memory grows with the text: word counts and shingles have limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, repeat
from pathlib import Path
from typing import TextIO

from lmbench import __version__
from lmbench.config.corpus_making import DataMakeConfig
from lmbench.corpus.corpus import CACHE_FOLDER
from lmbench.corpus.files import Progress, put_back, replace_folder, scratch_folder, sync
from lmbench.corpus.ids import EOS, SPLITS, UNK
from lmbench.corpus.making.bpe import TOKENIZER, check_installed, train_pieces
from lmbench.corpus.making.card import (
    CARD,
    Card,
    Duplicates,
    Source,
    SplitCounts,
    Vocabulary,
    read_card,
)
from lmbench.corpus.making.documents import MANY_FILES, Block, read_blocks
from lmbench.corpus.making.near_duplicates import SHINGLE, Fingerprints
from lmbench.corpus.making.raw_files import HashedFile, RawFile, find_files
from lmbench.corpus.making.splits import SplitChoice
from lmbench.corpus.making.vocabulary import WordCounts
from lmbench.corpus.making.words import Splitter, splitter
from lmbench.corpus.sources import LAYOUTS, data_folder, known_names
from lmbench.errors import LmbenchError

__all__ = ["data_make", "data_preview"]

_NAME = re.compile(r"[\w][\w.-]*")


def data_preview(files: Sequence[Path], config: DataMakeConfig, count: int) -> list[list[str]]:
    """The words of the first sentences of a text, at most `count` of them. Writes nothing.

    Raises:
        LmbenchError: the text cannot be read, or has no words.
    """
    reading = _Reading(find_files(files), config, None)
    words = splitter(config)
    sentences = (
        line.split() for _, block in reading.blocks("reading") for line in words(block.text) if line
    )
    found = list(islice(sentences, count))
    if not found:
        raise LmbenchError(f"{files[0]}: there are no words in it: give a text")
    return found


def data_make(
    name: str,
    files: Sequence[Path],
    home: Path,
    config: DataMakeConfig,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Card:
    """Make the corpus `name` in the working folder's data, whole or not at all.

    Args:
        replace: put it in the place of one of that name which was made so, too.

    Returns:
        What was done.

    Raises:
        LmbenchError: the name is taken or is none, a file is no text, or no corpus comes of it.
    """
    target = _target(name, home, files, replace=replace)
    reading = _Reading(find_files(files), config, progress)
    with scratch_folder(data_folder(home)) as scratch:
        built = scratch / name
        built.mkdir()
        card = _Making(reading, config, scratch, built).make()
        card.write(built)
        for file in built.iterdir():
            sync(file)
        try:
            if replace and target.exists():
                replace_folder(built, target)
            else:
                built.rename(target)
        except OSError as error:
            raise LmbenchError(f"{target}: cannot be put there ({error.strerror})") from error
    return card


def _target(name: str, home: Path, files: Sequence[Path], *, replace: bool) -> Path:
    if not _NAME.fullmatch(name):
        raise LmbenchError(f"{name}: a corpus's name has letters, digits, '.', '-' and '_' alone")
    if name in known_names():
        raise LmbenchError(f"{name}: a corpus that is known by this name: choose another")
    target = data_folder(home) / name
    put_back(target)
    if target.exists() and not replace:
        raise LmbenchError(f"{target}: is there already: choose another name, or add --replace")
    if target.exists():
        _check_replaced(target, files)
    return target


def _check_replaced(target: Path, files: Sequence[Path]) -> None:
    """Raises LmbenchError where a corpus holds what would be lost with it."""
    if read_card(target) is None:
        raise LmbenchError(
            f"{target}: was not made by `lmbench data make` (it has no {CARD}), so it is not "
            "replaced: choose another name"
        )
    if target.is_symlink():
        raise LmbenchError(
            f"{target}: is a link, which is not replaced: choose another name, or remove it"
        )
    own = {CARD, TOKENIZER, CACHE_FOLDER, *(LAYOUTS[0].format(split) for split in SPLITS)}
    for path in sorted(target.iterdir()):
        if path.name not in own:
            raise LmbenchError(
                f"{path}: was not made by `lmbench data make` and would be lost: move it out of "
                f"{target}, or choose another name"
            )
    for path in files:
        if path.resolve().is_relative_to(target.resolve()):
            raise LmbenchError(f"{path}: lies in the corpus that it would replace")


class _Reading:
    """The files as blocks, each with its split: the same at each reading."""

    def __init__(
        self, files: list[RawFile], config: DataMakeConfig, progress: Progress | None
    ) -> None:
        self.files = files
        self.hashes: list[str] = []
        self._config = config
        self._progress = progress
        self._total = sum(raw.size for raw in files)

    def blocks(self, what: str) -> Iterator[tuple[str, Block]]:
        """Raises LmbenchError where a file is not what it was at the first reading."""
        choice = SplitChoice(self._config)
        split, before, hashes = "train", 0, []
        for raw in self.files:
            with HashedFile(raw.path) as file:
                many = len(self.files) >= MANY_FILES
                for block in read_blocks(raw, file, self._config, many=many):
                    if block.begins_document:
                        split = choice.next()
                        self._tell(what, before + file.done)
                    yield split, block
                hashes.append(file.sha256())
            before += raw.size
            self._tell(what, before)
            if self.hashes and self.hashes[len(hashes) - 1] != hashes[-1]:
                raise LmbenchError(f"{raw.path} changed while it was read: run the command again")
        self.hashes = hashes

    def _tell(self, what: str, done: int) -> None:
        if self._progress:
            self._progress(what, done, self._total)


class _Making:
    """One corpus on its way."""

    def __init__(
        self, reading: _Reading, config: DataMakeConfig, scratch: Path, built: Path
    ) -> None:
        self._reading, self._config, self._built = reading, config, built
        # Beside the corpus, whose name may be any other.
        self._tokens = {split: scratch / f".{split}.tokens" for split in SPLITS}
        self._texts = {split: built / LAYOUTS[0].format(split) for split in SPLITS}
        self._words: Splitter = splitter(config)
        if config.pieces is not None:
            check_installed()
        self._counted = {split: SplitCounts() for split in SPLITS}
        self._test, self._held_out = Fingerprints(), Fingerprints()
        self._word_counts = WordCounts()

    def make(self) -> Card:
        self._hold_out()
        self._read_train()
        if len(self._word_counts) == 1:
            raise LmbenchError("train has one word only, over and over: give a text of several")
        vocabulary = self._write_words() if self._config.pieces is None else self._write_pieces()
        reading = self._reading
        return Card(
            lmbench=__version__,
            sources=[
                Source(str(raw.path.resolve()), raw.size, digest)
                for raw, digest in zip(reading.files, reading.hashes, strict=True)
            ],
            options=self._config.model_dump(mode="json"),
            splits=self._counted,
            vocabulary=vocabulary,
            duplicates=Duplicates(
                f"shingles of {SHINGLE} words (Broder 1997)", self._held_out.modulus
            ),
        )

    def _hold_out(self) -> None:
        """The first pass: valid and test."""
        with ExitStack() as stack:
            tokens = {
                split: stack.enter_context(
                    self._tokens[split].open("w", encoding="utf-8", newline="\n")
                )
                for split in ("valid", "test")
            }
            for split, block in self._reading.blocks("reading valid and test"):
                self._counted[split].documents += block.begins_document
                if split == "train":
                    continue
                sentences = self._sentences(block)
                self._held_out.add(sentences)
                if split == "test":
                    self._test.add(sentences)
                _write_block(tokens[split], sentences)
        self._held_out.finish()
        self._test.finish()
        found = sum(split.documents for split in self._counted.values())
        missing = [split for split in SPLITS if not self._counted[split].documents]
        if not found:
            raise LmbenchError("there are no words in the text: give more of it")
        if missing:
            raise LmbenchError(
                f"no document is left for {' and '.join(missing)}: the text has {found:,}: give "
                "more, larger --valid and --test, or smaller documents (--documents paragraphs "
                "or lines)"
            )

    def _read_train(self) -> None:
        """The second pass."""
        with self._tokens["train"].open("w", encoding="utf-8", newline="\n") as tokens:
            for split, block in self._reading.blocks("reading train"):
                if split == "train":
                    sentences = self._unrepeated("train", self._sentences(block), self._held_out)
                    _write_block(tokens, sentences)
                    self._word_counts.add(" ".join(sentences).split())

    def _sentences(self, block: Block) -> list[str]:
        return [sentence for sentence in self._words(block.text) if sentence]

    def _unrepeated(self, split: str, sentences: list[str], other: Fingerprints) -> list[str]:
        if self._config.keep_duplicates:
            return sentences
        repeated = other.repeated(sentences)
        self._counted[split].repeated += sum(repeated)
        return [one for one, again in zip(sentences, repeated, strict=True) if not again]

    def _write_words(self) -> Vocabulary:
        """The splits in whole words, the rare ones ``<unk>``."""
        config, counts = self._config, self._word_counts
        # Besides <unk> and <eos>.
        most = None if config.vocabulary is None else config.vocabulary - 2
        kept = counts.most_frequent(config.rarest, most)
        if not kept and len(counts):
            raise LmbenchError(
                f"train has no word {config.rarest} times: lower --min-count, or give more text"
            )
        written_as = {word: word for word in (*kept, EOS)}

        def known(sentences: list[str]) -> list[list[str]]:
            return [
                list(map(written_as.get, sentence.split(" "), repeat(UNK)))
                for sentence in sentences
            ]

        self._write(known)
        has_unknown = any(split.unknown for split in self._counted.values())
        return Vocabulary(len(kept) + has_unknown + 1, min(kept.values()), counts.missed)

    def _write_pieces(self) -> Vocabulary:
        """The splits in pieces of words, learnt on train."""
        assert self._config.pieces is not None
        tokens = self._tokens["train"]
        with tokens.open(encoding="utf-8", newline="\n") as file:
            sentences = (line for line in file if line != "\n")
            # Besides <eos>.
            size = self._config.pieces - 1
            tokenizer = train_pieces(sentences, size, tokens.stat().st_size)
        tokenizer.save(str(self._built / TOKENIZER))
        used: set[str] = {EOS}

        def cut(sentences: list[str]) -> list[list[str]]:
            pieces = [one.tokens for one in tokenizer.encode_batch(sentences)]
            used.update(*pieces)
            return pieces

        self._write(cut)
        return Vocabulary(len(used), None, 0)

    def _write(self, tokens_of: Callable[[list[str]], list[list[str]]]) -> None:
        """The texts of the three splits; `tokens_of` gives what stands for each sentence."""
        for split, counted in self._counted.items():
            with (
                self._tokens[split].open(encoding="utf-8", newline="\n") as held,
                self._texts[split].open("w", encoding="utf-8", newline="\n") as text,
            ):
                for sentences in _blocks(held):
                    if split == "valid":
                        sentences = self._unrepeated(split, sentences, self._test)
                    for sentence, tokens in zip(sentences, tokens_of(sentences), strict=True):
                        counted.sentences += 1
                        counted.words += sentence.count(" ") + 1
                        counted.characters += len(sentence) + 1
                        counted.unknown += tokens.count(UNK)
                        if self._config.pieces is not None:
                            counted.pieces += len(tokens)
                        text.write(" ".join(tokens) + "\n")
            self._tokens[split].unlink()
            if not counted.sentences:
                raise LmbenchError(
                    f"nothing is left of {split}: each of its sentences nearly repeats another "
                    "split: give more text, another --seed, or --keep-duplicates"
                )


def _write_block(file: TextIO, sentences: list[str]) -> None:
    """A sentence a line, and an empty line after a block."""
    if sentences:
        file.write("\n".join(sentences) + "\n\n")


def _blocks(file: TextIO) -> Iterator[list[str]]:
    held: list[str] = []
    for line in file:
        if line == "\n":
            yield held
            held = []
        else:
            held.append(line[:-1])
