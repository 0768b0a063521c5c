"""Compare objectives honestly: the same data, model, seeds and tuning budget for each."""
