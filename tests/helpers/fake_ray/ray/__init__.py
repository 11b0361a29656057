"""As much of Ray as a driver calls: tasks run in its own process, at once, one after the other.

``FAKE_RAY`` says what is wrong: ``none`` (no cluster), ``versions``, or ``node`` (its node dies).
"""

import os

__version__ = "2.60.0"
_WRONG = os.environ.get("FAKE_RAY", "")


class Task:
    """One that has ended: its `error`, or that of a task that it waited for."""

    def __init__(self, function, arguments):
        errors = [a.error for a in arguments if isinstance(a, Task) and a.error]
        self.error = errors[0] if errors else None
        if self.error is None and _WRONG == "node":
            self.error = RuntimeError("traceback\nits node died")
        if self.error is None:
            function(*(None if isinstance(a, Task) else a for a in arguments))


class Remote:
    def __init__(self, function):
        self._function = function

    def options(self, name):
        return self

    def remote(self, *arguments):
        return Task(self._function, arguments)


def init(address, **_):
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    if _WRONG == "none":
        raise ConnectionError("Could not find any running Ray instance.")
    if _WRONG == "versions":
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.11.9\n"
            "This process on node n1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )


def nodes():
    one = {"NodeManagerHostname": os.environ["FAKE_RAY_HOST"], "Alive": True}
    return [one | {"Resources": {"CPU": 2.0}}, one | {"Alive": False, "Resources": {"CPU": 64.0}}]


def remote(num_cpus, num_gpus, max_retries):
    assert max_retries == 3
    return Remote


def wait(tasks, num_returns, timeout):
    return tasks, []


def get(task):
    if task.error:
        raise task.error
