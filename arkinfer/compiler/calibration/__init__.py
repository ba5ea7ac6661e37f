"""Calibrated quantization of a whole checkpoint, block by block. Knows no method by name.

Nothing here is imported before it is needed: what looks at activations needs torch.
"""
