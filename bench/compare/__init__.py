"""Compare: seglog beside what a user would pick instead, in turns, in one run: `make compare`, docs/benchmarks."""
