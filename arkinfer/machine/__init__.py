"""What this machine is, as far as benchmarks and their readers must know it."""
