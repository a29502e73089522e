"""What a run will cost on this machine, before anything is downloaded: time, memory, disk and operations.

``source`` finds a model's configuration, ``shape`` what it is made of, ``work`` counts what notebooks do with it,
``shared`` what they have in common, ``calibration`` measures this machine, ``price`` puts the last two together.
"""
