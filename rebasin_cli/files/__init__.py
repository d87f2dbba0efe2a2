"""The files of a command: opened, compared, placed and written."""
