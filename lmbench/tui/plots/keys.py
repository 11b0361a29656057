"""The keys of the panel of plots: which plot, the cursor, zoom, smoothing, export."""

from __future__ import annotations

from textual.binding import Binding, BindingType

__all__ = ["KEYS"]

KEYS: list[BindingType] = [
    Binding("right_square_bracket,greater_than_sign", "turn(1)", "next", id="plots.next",
            key_display="[ ]", tooltip="Next plot"),
    Binding("left_square_bracket,less_than_sign", "turn(-1)", "previous", id="plots.previous",
            show=False, tooltip="Previous plot"),
    Binding("left,h", "cursor(-1)", "read", id="plots.left", key_display="← →",
            tooltip="Move the cursor left"),
    Binding("right", "cursor(1)", "read", id="plots.right", show=False,
            tooltip="Move the cursor right"),
    Binding("ctrl+left", "cursor(-10)", "read", id="plots.left_10", show=False,
            tooltip="Move the cursor ten columns left"),
    Binding("ctrl+right", "cursor(10)", "read", id="plots.right_10", show=False,
            tooltip="Move the cursor ten columns right"),
    Binding("home", "cursor(-100000)", "first", id="plots.first", show=False,
            tooltip="Move the cursor to the first value"),
    Binding("end", "cursor(100000)", "last", id="plots.last", show=False,
            tooltip="Move the cursor to the last value"),
    Binding("plus,equals_sign", "zoom(1)", "zoom", id="plots.zoom_in", key_display="+ −",
            tooltip="Zoom in around the cursor"),
    Binding("minus", "zoom(-1)", "zoom out", id="plots.zoom_out", show=False, tooltip="Zoom out"),
    Binding("0", "whole", "all", id="plots.whole", tooltip="Show the whole x axis"),
    Binding("shift+left,H", "pan(-1)", "pan", id="plots.pan_left", show=False, tooltip="Pan left"),
    Binding("shift+right,L", "pan(1)", "pan", id="plots.pan_right", show=False,
            tooltip="Pan right"),
    Binding("y", "log", "log", id="plots.log", tooltip="Logarithmic or linear"),
    Binding("a", "clip", "all values", id="plots.clip", show=False,
            tooltip="Show the highest values too, or give the room to the others"),
    Binding("x", "x_axis", "axis", id="plots.x_axis", tooltip="X by step, epoch or time"),
    Binding("m", "smooth", "smooth", id="plots.smooth", tooltip="Smooth more or less"),
    Binding("t", "per_tensor", "tensors", id="plots.per_tensor",
            tooltip="Sparsity of each tensor or in total"),
    Binding("f", "freeze", "hold", id="plots.freeze", show=False,
            tooltip="Hold the picture still, or let it follow"),
    Binding("e", "export", "export", id="plots.export",
            tooltip="Export the plot as SVG, text or CSV"),
    Binding("escape", "no_cursor", "no cursor", id="plots.no_cursor", show=False,
            tooltip="Take the cursor away"),
]  # fmt: skip
