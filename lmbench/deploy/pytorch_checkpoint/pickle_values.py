"""What a pickle describes, as inert values: nothing is imported, and nothing is called.

`read_pickle` goes through the opcodes as `pickletools` decodes them and builds plain values.
Where a pickle would import something stands a `Name`, where it would call something a `Made`, where
it would ask its reader for an object a `Stored`. What these mean is the caller's to say.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["ORDERED_DICT", "Made", "Name", "Stored", "read_pickle"]

# A vocabulary of WikiText-103, as a list and as a dictionary, has two million.
_MOST_OPCODES = 4_000_000

_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
}
_ARGUMENTS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    }
)
"""Opcodes whose argument is the value."""


class Name(NamedTuple):
    """Something that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


ORDERED_DICT = Name("collections", "OrderedDict")
"""The one thing that is made: a dictionary."""


@dataclass(eq=False, slots=True)
class Made:
    """What the pickle would make by calling `of`, and what it would fill it with."""

    of: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Stored:
    """What the pickle would ask its reader for, by this id."""

    id: Any


class _Machine:
    """The stack of a pickle, and what was met on the way."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.names: dict[Name, None] = {}
        self.stored: list[Stored] = []

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _ARGUMENTS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            _STEPS[opcode](self, argument)

    def mark(self) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self._marked.pop()
        return taken

    def tuple_of(self, count: int) -> None:
        taken = tuple(self.stack[-count:])
        if len(taken) < count:
            raise IndexError
        self.stack[-count:] = [taken]

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = Name(module, name)
        self.names[found] = None
        self.stack.append(found)

    def call(self, of: Any, arguments: Any) -> None:
        if of == ORDERED_DICT:
            made: Any = {}
            if isinstance(arguments, tuple) and arguments and isinstance(arguments[0], list):
                # Before Python 3 its pairs are the argument.
                pairs = [pair for pair in arguments[0] if isinstance(pair, list | tuple)]
                _put(made, [part for pair in pairs if len(pair) == 2 for part in pair])
        else:
            made = Made(of, arguments)
        self.stack.append(made)

    def store(self, id: Any) -> None:
        self.stored.append(Stored(id))
        self.stack.append(self.stored[-1])

    def build(self, state: Any) -> None:
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        _put(target.items if isinstance(target, Made) else target, flat)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            target = target.entries
        if not isinstance(target, list):
            raise ValueError("something is appended to what is no list")
        target.extend(values)


def _put(target: Any, flat: list[Any]) -> None:
    """Set keys and values that follow each other. A key of another kind than those that state
    dictionaries have is left out: to hash what is nested in itself or deeply never ends."""
    if not isinstance(target, dict) or len(flat) % 2:
        raise ValueError("an item is set in what is no dictionary")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        if key is None or isinstance(key, str | int | float | Made):
            target[key] = value


def _binary(machine: _Machine, act: Callable[[Any, Any], None]) -> None:
    last = machine.stack.pop()
    act(machine.stack.pop(), last)


_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    # A set's members are kept as a list, since they would have to be hashed.
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: _push(m, m.since_mark()),
    "FROZENSET": lambda m, _: _push(m, m.since_mark()),
    "TUPLE": lambda m, _: _push(m, tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": lambda m, _: _dictionary(m, m.since_mark()),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "ADDITEMS": lambda m, _: m.append(m.since_mark()),
    "SETITEM": lambda m, _: _binary(m, lambda key, value: m.set_items([key, value])),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, argument: m.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _binary(m, m.name),
    "REDUCE": lambda m, _: _binary(m, m.call),
    "NEWOBJ": lambda m, _: _binary(m, m.call),
    "NEWOBJ_EX": lambda m, _: _with_keywords(m),
    "INST": lambda m, argument: _instance(m, Name(*argument.split(" ", 1)), m.since_mark()),
    "OBJ": lambda m, _: _object(m, m.since_mark()),
    "BUILD": lambda m, _: m.build(m.stack.pop()),
    "PERSID": lambda m, argument: m.store(argument),
    "BINPERSID": lambda m, _: m.store(m.stack.pop()),
}


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _dictionary(machine: _Machine, flat: list[Any]) -> None:
    machine.stack.append({})
    machine.set_items(flat)


def _with_keywords(machine: _Machine) -> None:
    machine.stack.pop()
    _binary(machine, machine.call)


def _instance(machine: _Machine, of: Name, arguments: list[Any]) -> None:
    machine.names[of] = None
    machine.call(of, tuple(arguments))


def _object(machine: _Machine, taken: list[Any]) -> None:
    machine.call(taken[0], tuple(taken[1:]))


def read_pickle(file: Any) -> tuple[Any, list[Name], list[Stored]]:
    """The value of the pickle that begins where a file stands, which then stands behind it.

    Args:
        file: has ``read`` and ``readline``; a length that is declared beyond its end must cost
            nothing, as with a memory map or `io.BytesIO`.

    Returns:
        The value, the names that it would import, and what it would ask its reader for.

    Raises:
        ValueError: damaged, too long, or with opcodes that no checkpoint has.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_OPCODES:
                raise ValueError(f"more than {_MOST_OPCODES:,} operations")
            machine.step(opcode.name, argument)
        return machine.stack[-1], list(machine.names), machine.stored
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its operations do not fit together ({type(error).__name__})") from None
