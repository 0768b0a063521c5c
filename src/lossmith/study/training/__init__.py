"""One trial: a model trained with an objective on a split, and measured."""
