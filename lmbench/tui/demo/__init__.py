"""``lmbench tui --demo``: a recorded session, played back into a folder of its own.

Nothing in the workbench knows a recording from the real thing: the player writes run folders as
workers do, and the workbench watches them. ``docs/record_demo.py`` makes the recording.
"""

from lmbench.tui.demo.player import Player, recording

__all__ = ["Player", "recording"]
