"""Algorithms of linear algebra that know no problem: conjugate gradients, bidiagonalisation, one root finder."""
