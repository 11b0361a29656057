"""A corpus made of one's own text: files → documents → sentences of words → three splits.

To read top to bottom: `raw_files` (what is read), `documents` (its parts), `words` (tokens),
`near_duplicates`, `vocabulary`, `bpe` (pieces of words), `make` (all of it, in two passes), `card`
(what was done).
"""
