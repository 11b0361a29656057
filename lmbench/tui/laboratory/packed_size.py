"""Why a candidate's packed file is no smaller than its bits promise."""

from __future__ import annotations

from collections.abc import Sequence

from lmbench.jobs.hosts.laboratory_messages import Module
from lmbench.tui.laboratory.candidates import Candidate
from lmbench.tui.laboratory.quantization_settings import InForce

__all__ = ["size_note"]

_STORED_BITS = 8
"""Integers are packed in 4 bits or in so many."""


def size_note(candidate: Candidate, modules: Sequence[Module], tied: bool) -> str:
    """What of a candidate's size needs a word; "" for nothing."""
    if not candidate.settings or candidate.state != "evaluated":
        return ""
    weighty = {m.name: InForce(candidate.settings, m) for m in modules if m.weights}
    notes = []
    widths = {_bits(settings) for settings in weighty.values()}
    between = sorted(bits for bits in widths if bits is not None and 4 < bits < _STORED_BITS)
    if between:
        bits = " and ".join(map(str, between))
        notes.append(f"{bits} bits are packed in {_STORED_BITS}")
    ends = weighty.get("encoder"), weighty.get("decoder")
    if tied and ends[0] and ends[1] and _stored_as(ends[0]) != _stored_as(ends[1]):
        notes.append("encoder and decoder differ: both are stored")
    return "; ".join(notes)


def _bits(now: InForce) -> int | None:
    return None if now.floating else now.settings.bits_weights


def _stored_as(now: InForce) -> tuple[object, ...]:
    """What decides the numbers that are stored of a matrix."""
    if now.floating:
        return (now.precision,)
    chosen = now.settings
    stored = (chosen.bits_weights, now.channels, now.codes)
    return stored if now.codes else (*stored, chosen.mode.weights, chosen.clip_weights)
