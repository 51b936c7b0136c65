"""Between the command line and the tasks."""
