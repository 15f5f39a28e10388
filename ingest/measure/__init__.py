"""What a model does when something changes: training steps, checkpoints. No encodings are written here."""
