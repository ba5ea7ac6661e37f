"""Where the time of a step goes, op by op. Runs on the device; knows no torch and no IR."""
