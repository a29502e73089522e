"""When it breaks: step by step along free and forced texts."""
