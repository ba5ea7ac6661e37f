"""What quantization costs a model: perplexity, divergence, error by layer; and gates on it."""
