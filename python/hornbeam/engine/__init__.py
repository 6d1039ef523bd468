"""The decoding loop, the only caller of the model."""
