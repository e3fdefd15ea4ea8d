"""Nonlinear least squares and smooth minimisation, and the parts that their solvers are made of."""
