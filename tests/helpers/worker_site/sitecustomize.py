"""Seen by every Python process that has this folder on its path: puts fake kinds of runs in place.

So the tests run the real supervisor and the real worker, which know nothing of being tested; only
what `lmbench.jobs.kinds.NAME` leads to is ours, where ``fake_kinds`` has a module of that name.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

FAKES = Path(__file__).parent / "fake_kinds"


class FakeKinds(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        package, _, kind = fullname.rpartition(".")
        source = FAKES / f"{kind}.py"
        if package == "lmbench.jobs.kinds" and source.is_file():
            return importlib.util.spec_from_file_location(fullname, source)
        return None


sys.meta_path.insert(0, FakeKinds())
