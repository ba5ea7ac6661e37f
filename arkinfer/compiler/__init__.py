"""The host's driver: from a checkpoint to an .ark file, and predictions of that."""
