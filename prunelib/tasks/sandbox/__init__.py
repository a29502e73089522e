"""Programs that a model wrote, run where they can do no harm (:mod:`prunelib.tasks.sandbox.box`)."""
