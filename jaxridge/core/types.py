"""The vocabulary of shapes: every array in jaxridge is described in these letters.

n   rows, observations            t   targets, columns of y
d   features, penalised columns   q   unpenalised columns, the intercept among them
a   d + q                         m   directions that a factorisation keeps
k   points of a grid of lambdas
"""

from jaxtyping import Array, Bool, Float, Int

Scalar = Float[Array, ""]
Lam = Float[Array, "*#t"]  # one lambda, or one for each target

__all__ = ["Array", "Bool", "Float", "Int", "Lam", "Scalar"]
