"""The MiniCPM family: its configs, and its torch modules. Knows neither checkpoints nor the IR."""
