"""What is promised while processes are killed: `python -m bench.faults`."""
