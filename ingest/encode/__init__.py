"""Encoders that write encodings: gradients, representations, embeddings. What is measured belongs in measure."""
