"""Runs as processes: starting, queueing and stopping them, and the worker that does the work.

`lmbench.jobs.launch` is for everyone and imports no torch; what a kind of run does stands in
`lmbench.jobs.kinds`, one module a kind, imported by the worker alone.
"""
