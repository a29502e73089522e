"""One way to read and write tokens: shared prefixes, decoding, prompts and calibration text."""
