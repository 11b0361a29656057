"""The workbench: a Textual application over a session's folders. Nothing here imports torch.

``docs/internals/workbench.md`` says how it is built and what a new panel or screen has to do.

* A feature is a folder (``runs``, ``plots``, ``layers``, ``generate``, ``new_run``, ``schedule``,
  ``laboratory``, ``compare``, ``sensitivity``, ``sessions``, ``settings``) with its screen, its
  widgets and its logic. Features import ``bench`` and ``kit``, never each other.
* ``bench`` is what they share: `bench.bench.Bench` has three reactives, ``snapshot`` (immutable),
  ``selected`` (a run's key) and ``marked`` (keys); `remember` and `recall` keep state in the
  session; `open` shows a screen; `show_error` and `show_message` report; `run_in_thread` calls
  what blocks. `bench.bench.SCREENS` names all screens.
* ``kit`` is what they are built of: `kit.panel.Panel` (override ``refresh_view``),
  `kit.screen.BenchScreen`, dialogs, forms, tables, the terminal's driver.
* A binding with an ``id`` and a ``tooltip`` can be given other keys and is in the command palette
  wherever ``check_action`` allows it.
"""
