"""The inverted index as it is read: tokens, weights, search. It writes nothing and knows no model."""
