"""Other libraries' names for the tensors of a network, one module per layout."""
