"""Measurements with their uncertainty: gradient estimators, encoder gradients, diversity."""
