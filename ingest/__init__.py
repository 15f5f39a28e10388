"""The jobs that write a store: corpus, queries, labels, gradients, lexical statistics."""
