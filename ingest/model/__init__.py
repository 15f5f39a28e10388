"""A language model as the jobs see it: weights, tokens, layers, optimizer. Nothing here knows a store's tables."""
