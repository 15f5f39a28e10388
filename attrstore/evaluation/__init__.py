"""What rankings are worth: reports, retraining subsets, diagnostics. It runs no method; metrics are SQL in sql/face."""
