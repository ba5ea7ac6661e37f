"""From a checkpoint to the IR: readers, hub, tracing. Imports torch only where it traces."""
