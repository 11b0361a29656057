"""A stylesheet that names a class which is not there does nothing, and nothing says so."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

from textual.dom import DOMNode

import lmbench.tui

# A type in a selector: a capitalised word that no dot, hash or other word stands before.
TYPE = re.compile(r"(?<![\w.#$:-])[A-Z]\w+")


def classes(base: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for one in base.__subclasses__():
        yield one
        yield from classes(one)


def test_every_class_that_a_stylesheet_names_is_there() -> None:
    for module in pkgutil.walk_packages(lmbench.tui.__path__, "lmbench.tui."):
        importlib.import_module(module.name)
    known = {one.__name__ for one in classes(DOMNode)}
    missing = [
        f"{one.__module__}: {name}"
        for one in classes(DOMNode)
        if one.__module__.startswith("lmbench.")
        for selector in re.findall(r"([^{}]+)\{", vars(one).get("DEFAULT_CSS", ""))
        for name in TYPE.findall(selector)
        if name not in known
    ]
    assert not missing
