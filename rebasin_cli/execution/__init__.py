"""Who carries out the tasks of a command: this process, others on the machine, or a Ray cluster."""
