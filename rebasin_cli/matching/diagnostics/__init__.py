"""What the units of two models say, one by one."""
