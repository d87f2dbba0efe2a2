"""The commands, a folder each: command, plan, run, report."""
