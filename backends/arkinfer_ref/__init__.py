"""The reference backend: a numpy interpreter of the IR, and the worked example for plug-ins."""
