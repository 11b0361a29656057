"""From documentation to sentences of words: what of a docstring is English. No torch here.

The aim is text like the tokenised corpora of the field: one sentence a line, words and punctuation
apart. Code, tables, signatures and headings are left out; markup goes, the words in it stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["sentences"]

_TOKEN = re.compile(
    r"""
      https?://[^\s<>"')]+[^\s<>"').,;:]       # an address
    | (?:e\.g\.|i\.e\.|etc\.|cf\.|vs\.)        # abbreviations keep their points
    | (?<![\w.])\.[A-Za-z]\w*                  # .py
    | \*{0,2}[^\W\d]\w*                        # a word or name, *args included,
      (?:\.[^\W\d]\w*|['’-][^\W\d]\w*)*        #   with its dots, apostrophes and hyphens
      (?:\(\))?                                #   and the () of a call
    | \d+(?:[.,:]\d+)*(?:[^\W\d]+)?            # 3.11, 1,000, 3rd
    | \.\.\.|--+|==|!=|<=|>=|->|\S             # punctuation
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_BULLET = re.compile(r"\s*(?:[*+•-]|\(?\d{1,2}[.)]|#\.)\s+(?=\S)")
_UNDERLINE = re.compile(r"\s*([-=*~^\"'#+_.])\1{2,}\s*")
_CODE_LINE = re.compile(r"\s*(?:>>>|\.\.\.(?:\s|$)|\.\. |\$ |\||\+[-=]|@\w|#|%|\S+\s*::=|:\w+.*:)")
_ROLE = re.compile(r":[A-Za-z]+(?::[A-Za-z]+)?:`~?([^`]+)`")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=[^\s*])([^*]+?)(?<=[^\s*])\1(?![\w*])")

_COMMON = frozenset(
    """
    the a an of to is are in on for if and or be this that with by as it from return returns not
    when which at use used all any each no can may will was has have but then than
    """.split()  # noqa: SIM905 (a list of fifty strings reads worse)
)
"""A sentence of English holds at least one of these; a line of code or of a table seldom does."""

_OPENING = frozenset("\"'(“[")
_CLOSING = frozenset("\"')”]")
_NEUTRAL = frozenset(""". , ; : ? ! ( ) " ' “ ” e.g. i.e. etc. cf. vs.""".split())  # noqa: SIM905
"""What stands in prose and in code alike, and so tells neither from the other."""

_FEWEST_TOKENS = 4
_FEWEST_WORDS = 0.7


def sentences(text: str) -> Iterator[list[str]]:
    """The English sentences of a docstring or a topic, each as its words and punctuation marks."""
    for paragraph in _paragraphs(text):
        tokens = _TOKEN.findall(_without_markup(paragraph))
        for sentence in _split(tokens):
            if _is_english(sentence):
                yield sentence


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of lines that belong together; a list's item is a paragraph of its own."""
    lines: list[str] = []
    is_code = False
    for line in [*text.splitlines(), ""]:
        bullet = _BULLET.match(line)
        if _UNDERLINE.fullmatch(line):
            lines, is_code = [], False  # what stood above it was a heading
            continue
        if not line.strip() or bullet:
            if lines and not is_code:
                yield " ".join(lines)
            lines, is_code = [], False
        is_code = is_code or _CODE_LINE.match(line) is not None
        if line.strip():
            lines.append((line[bullet.end() :] if bullet else line).strip())


def _without_markup(paragraph: str) -> str:
    text = _ROLE.sub(r"\1", paragraph)
    text = _EMPHASIS.sub(r"\2", text)
    return text.replace("``", "").replace("`", "")


def _split(tokens: list[str]) -> Iterator[list[str]]:
    """Cut after a full stop that another sentence follows, keeping closing quotes with theirs."""
    start = 0
    for place, token in enumerate(tokens):
        if token not in (".", "!", "?", "etc."):
            continue
        end = place + 1
        while end < len(tokens) and tokens[end] in _CLOSING and not _opens(tokens, start, end):
            end += 1
        if end == len(tokens) or not _goes_on(tokens[end], token):
            yield tokens[start:end]
            start = end
    if start < len(tokens):
        yield tokens[start:]


def _opens(tokens: list[str], start: int, place: int) -> bool:
    """Whether the quote at ``place`` opens one: so it does after an even number of its kind."""
    quote = tokens[place]
    return quote in _OPENING and tokens[start:place].count(quote) % 2 == 0


def _goes_on(following: str, stop: str) -> bool:
    """Whether the token after a stop shows that the sentence goes on: it is not capitalised."""
    starts = following[0].isupper() or following[0].isdigit() or following in _OPENING
    return not starts or (stop == "etc." and not following[0].isupper())


def _is_english(tokens: list[str]) -> bool:
    if len(tokens) < _FEWEST_TOKENS:
        return False
    distinctive = [token for token in tokens if token not in _NEUTRAL]
    words = [token for token in distinctive if _WORD.fullmatch(token)]
    return len(words) >= _FEWEST_WORDS * len(distinctive) and any(
        word.lower() in _COMMON for word in words
    )
