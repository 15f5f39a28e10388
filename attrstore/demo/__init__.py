"""The demo: a generated world of facts, a small model trained on it, and its attributions."""
