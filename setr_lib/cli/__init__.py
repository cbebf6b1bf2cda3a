"""The words of the command line, and what it writes."""
