"""Where a linear verb goes with an X that is not one dense array: whoever can take it registers here."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Route(NamedTuple):
    """What takes a kind of X: the verbs, by their names."""

    name: str
    accepts: Callable[[Any, Any], bool]  # X and the solver
    verbs: dict[str, Callable[..., Any]]


ROUTES: list[Route] = []


def other(verb: str, X: Any, solver: Any = None) -> Callable[..., Any] | None:
    """The same verb for this kind of X; None for a dense array, or a ``ValueError`` that names the verbs there are."""
    route = next((route for route in ROUTES if route.accepts(X, solver)), None)
    if route is None:
        return None
    if verb not in route.verbs:
        raise ValueError(f"{verb} takes no {route.name} X; {', '.join(route.verbs)} do, or pass a dense array.")
    return route.verbs[verb]
