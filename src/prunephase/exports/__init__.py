"""What leaves the program: a chosen network as files that need nothing else."""
