"""Sixty nights of a simulated card bank, played by the same three stories that cron runs: `make
demo`.
"""
