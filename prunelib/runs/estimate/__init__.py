"""What a run will cost on this machine, before anything is downloaded: time, memory, disk and operations.

``source`` finds a model's configuration, ``shape`` what it is made of. ``work`` has the pieces that their
work is counted in; ``dense``, ``made`` and ``asked`` count what they share; ``calibration`` measures this machine, and
``price`` puts these together.
"""
