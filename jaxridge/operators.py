"""stub, replaced soon"""
import equinox as eqx
from typing import Any
class Diagonalised(eqx.Module):
    symbol: Any
    analyse: Any
    synthesise: Any
def diagonalised(A): return None
