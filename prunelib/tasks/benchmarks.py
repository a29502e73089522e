"""Which standard benchmarks can be asked here, before anything is computed."""

CODE = "humaneval"
"""The one benchmark that lm-eval does not run: its programs are run in the sandbox (tasks.humaneval)."""


def can_be_read(tasks: str) -> list[str]:
    """The benchmarks in ``tasks``, names separated by commas; PrunelibError for one that cannot be asked here."""
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    for name in names:
        _can_be_read(name)
    return names


def _can_be_read(name: str) -> None:
    """PrunelibError if this benchmark cannot be asked here, before anything is computed."""
    from prunelib.tasks import harness, humaneval
    from prunelib.tasks.sandbox import box

    if name == CODE:
        humaneval.problems(1)
        box.run("")
        return
    with harness.definition(name):
        pass
