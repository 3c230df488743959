"""The process that runs jobs, started as `python -m worker`, outside of cyqd: it and its jobs hold nothing else."""
