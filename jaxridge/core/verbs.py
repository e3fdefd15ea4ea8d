"""The door of a verb: a signature that shows every keyword, and words of other libraries answered by its own name."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from jaxridge.core.words import CURES, NEEDS

__all__ = ["verb"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


def verb(*options: Callable[..., Any]) -> Callable[[Verb], Verb]:
    """Show the keywords of ``options`` where a verb passes its own on, and answer those that it has not.

    >>> import jaxridge as jxr
    >>> jxr.ridge([[1.0]], [1.0], 1.0, fit_intercept=False)
    Traceback (most recent call last):
    TypeError: ridge has no argument 'fit_intercept': write intercept.
    """

    def door(fn: Verb) -> Verb:
        signature = _explicit(fn, options)

        @functools.wraps(fn)
        def called(*args: Any, **keywords: Any) -> Any:
            try:
                signature.bind(*args, **keywords)
            except TypeError as error:
                said = _misfit(signature, args, keywords, str(error))
                raise TypeError(f"{_who(fn, args)} {said}") from None
            return fn(*args, **keywords)

        called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        return called  # pyright: ignore[reportReturnType]

    return door


def _explicit(fn: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> inspect.Signature:
    """The signature of ``fn`` with the keyword-only parameters of ``options`` in the place of its ``**``."""
    own = inspect.signature(fn)
    if not options:
        return own
    parameters = {name: p for name, p in own.parameters.items() if p.kind is not p.VAR_KEYWORD}
    for option in options:
        for name, parameter in inspect.signature(option).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                parameters.setdefault(name, parameter)
    return own.replace(parameters=sorted(parameters.values(), key=lambda parameter: parameter.kind))


def _who(fn: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The name of a verb, of a method with that of its record, of a class that is made."""
    if next(iter(inspect.signature(fn).parameters), "") != "self" or not args:
        return fn.__name__
    record = type(args[0]).__name__
    return record if fn.__name__ == "__init__" else f"{record}.{fn.__name__}"


def _misfit(signature: inspect.Signature, args: tuple[Any, ...], keywords: dict[str, Any], said: str) -> str:
    """What is wrong with a call that does not fit, and what to write instead; ``said`` is what Python says of it."""
    parameters = {name: p for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD}
    placed = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    names = [name for name in parameters if name != "self"]
    unknown = [name for name in keywords if name not in parameters]
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in keywords]
    if unknown and len(parameters) == len(signature.parameters):
        return f"has no argument {unknown[0]!r}: {_cure(unknown[0], names)}"
    if len(args) > len(placed):
        by_name = ", ".join(name for name in names if name not in placed)
        order = ", ".join(name for name in placed if name != "self")
        return f"takes {order} in this order" + (f" and the rest by name: {by_name}." if by_name else ".")
    for name in missing:
        if name not in placed[: len(args)]:
            return f"needs {name}" + (f": {NEEDS[name]}." if name in NEEDS else f"; it takes {', '.join(names)}.")
    return f"has {said}."


def _cure(name: str, names: list[str]) -> str:
    """What to write instead."""
    for has, cure in CURES.get(name, ()):
        if has in names or not has:
            return f"{cure}."
    near = difflib.get_close_matches(name, names, 1)
    return f"is it {near[0]}?" if near else f"it takes {', '.join(names)}."
