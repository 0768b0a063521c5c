"""lossmith: training objectives for PyTorch, behind one convention and held to their word."""
