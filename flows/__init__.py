"""The paper's method as Prefect flows: the order of steps, and nothing else."""
