"""Who gets what, and what came of it."""
