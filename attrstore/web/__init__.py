"""The page: what a store says, in a browser on the same machine."""
