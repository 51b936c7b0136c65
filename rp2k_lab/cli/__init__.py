"""The command line: checks a request, runs its task, and turns errors into messages and exit codes."""
