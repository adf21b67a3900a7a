"""What runs notebooks and makes the book: the command line, sweeps, and the jobs of the Snakefile."""
