"""Objectives of this project as advantage estimators, policy losses and a sampler of verl."""
