"""Arrays in, tuples out: what the figures and verdicts rest on. Imports nothing of ours."""
