"""Files whose weights are codes and scales: recognised, and read as weights."""
