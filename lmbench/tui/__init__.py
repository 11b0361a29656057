"""The workbench: a Textual application over a session's folders. Nothing here imports torch.

``docs/internals/workbench.md`` says how it is built and what a new panel or screen has to do.
"""
