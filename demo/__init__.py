"""Sixty nights of a simulated card bank, played by the three stories that cron runs."""
