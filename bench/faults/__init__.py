"""What is promised while everything is broken: `python -m bench.faults`."""
