"""Golden vectors on the device: does this file answer here as its model did? No torch, no IR."""
