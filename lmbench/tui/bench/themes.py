"""The workbench's themes: dark, light, high contrast, and one that leaves colours to the terminal.

Each defines ``series-1`` to ``series-8``, the colours of runs. The eight of dark and light are
spread in hue and in lightness, so that neighbours differ for colour-blind readers too.
"""

from __future__ import annotations

from functools import cache

from textual.theme import Theme

__all__ = ["DEFAULT_THEME", "THEMES", "light_variables"]

DEFAULT_THEME = "lmbench-dark"


def _series(colours: str) -> dict[str, str]:
    return {f"series-{i}": colour for i, colour in enumerate(colours.split(), start=1)}


THEMES = (
    Theme(
        name="lmbench-dark",
        primary="#7aa2f7",
        secondary="#7dcfff",
        accent="#e0af68",
        success="#9ece6a",
        warning="#e0af68",
        error="#f7768e",
        foreground="#d5d9e5",
        background="#14161d",
        surface="#191c25",
        panel="#232734",
        variables={
            **_series("#6fb1ff #ffb454 #8fd46a #ff7a93 #c39bff #4fd6c9 #f2e05c #ff9edb"),
            "faint": "#4a5064",
            "border-blurred": "#3a4052",
            "block-cursor-background": "#33415f",
            "block-cursor-foreground": "#ffffff",
            "block-cursor-blurred-background": "#262b38",
            "screen-selection-foreground": "#d5d9e5",
        },
    ),
    Theme(
        name="lmbench-light",
        primary="#2455a4",
        secondary="#0b6e83",
        accent="#9a5b00",
        success="#2e7d32",
        warning="#9a5b00",
        error="#b3261e",
        foreground="#20242c",
        background="#fafafa",
        surface="#f3f4f6",
        panel="#e5e7eb",
        dark=False,
        variables={
            **_series("#1f5fbf #b85c00 #2e7d32 #c2185b #6a3fb5 #00796b #8a6d00 #ad1fa0"),
            "faint": "#9aa1ad",
            "border-blurred": "#c3c8d1",
            "block-cursor-background": "#cfdcf5",
            "block-cursor-foreground": "#10131a",
            "block-cursor-blurred-background": "#e2e6ee",
            "screen-selection-foreground": "#20242c",
        },
    ),
    Theme(
        name="lmbench-contrast",
        primary="#00e5ff",
        secondary="#ffffff",
        accent="#ffff00",
        success="#00ff5f",
        warning="#ffff00",
        error="#ff5f5f",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#1c1c1c",
        variables={
            **_series("#00e5ff #ffff00 #00ff5f #ff5f5f #ff87ff #ffffff #ffaf00 #87afff"),
            "faint": "#b2b2b2",
            "text-muted": "#d0d0d0",
            "border-blurred": "#8a8a8a",
            "block-cursor-background": "#0037c8",
            "block-cursor-foreground": "#ffffff",
            "block-cursor-blurred-background": "#444444",
            "screen-selection-foreground": "#ffffff",
        },
    ),
    Theme(
        name="lmbench-ansi",
        ansi=True,
        primary="ansi_blue",
        secondary="ansi_cyan",
        accent="ansi_yellow",
        success="ansi_green",
        warning="ansi_yellow",
        error="ansi_red",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        variables={
            **_series(
                "ansi_bright_blue ansi_yellow ansi_green ansi_red "
                "ansi_magenta ansi_cyan ansi_bright_yellow ansi_bright_magenta"
            ),
            # Textual's own rules for ANSI themes ask for these.
            "ansi-background": "ansi_black",
            "ansi-foreground": "ansi_white",
            "input-cursor-background": "ansi_white",
            "input-cursor-foreground": "ansi_black",
            "input-selection-background": "ansi_bright_blue",
            "input-selection-foreground": "ansi_black",
            "screen-selection-background": "ansi_bright_blue",
            "screen-selection-foreground": "ansi_black",
            "faint": "ansi_bright_black",
            # Textual mixes this one from the foreground, which a terminal's own colour is not for.
            "foreground-muted": "ansi_default",
            "text-muted": "ansi_default",
            "border-blurred": "ansi_bright_black",
            "block-cursor-foreground": "ansi_black",
            "block-cursor-background": "ansi_white",
            "block-cursor-text-style": "bold",
            "footer-key-foreground": "ansi_yellow",
        },
    ),
)


@cache
def light_variables() -> dict[str, str]:
    """The colours of the light theme."""
    light = next(theme for theme in THEMES if not theme.dark)
    return {**light.to_color_system().generate(), **light.variables}
