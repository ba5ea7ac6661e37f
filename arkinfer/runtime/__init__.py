"""The device half: what runs an artifact. Knows no torch, no IR and no compiler."""
