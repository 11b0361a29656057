"""The workbench: a Textual application over the session's folders. No torch in here.

``docs/internals/workbench.md`` says how it is built and what a new panel or screen has to do. In
short:

* `app.Workbench` has three reactives, ``snapshot`` (`watch.Snapshot`, immutable), ``selected`` (a
  run's key) and ``marked`` (keys); `remember` and `recall` keep state in the session; `open` shows
  a screen; `complain` and `say` tell the user; `do` calls what blocks in a thread.
* `widgets.panel.Panel` is the base of what stands on a screen: override ``refresh_view``.
* `screens.base.BenchScreen` is the base of a screen; `app.SCREENS` names them all.
* Each binding has an ``id`` and a ``tooltip``: that makes it remappable and puts it into the
  command palette, wherever ``check_action`` allows it.
"""
