"""What each kind of run does: a module named as the kind, with ``def work(job: Job) -> None``."""
