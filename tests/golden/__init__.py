"""Golden values: the numbers every objective gave when its formula was last meant to change."""
