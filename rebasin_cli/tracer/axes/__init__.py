"""Which axes of a run's values hold the same units."""
