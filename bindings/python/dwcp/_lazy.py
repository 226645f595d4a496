"""Fields of dataclasses that are made when they are first asked for.

Of a VM many callers look at its id and its state, and making all the rest takes several times as long as asking the
node. An object that comes from the core has its first fields, and a `_rest` that makes the others, all at once when
one is asked for; so whatever looks at them (comparing, printing, copying, pickling, `vars()`) finds them. An object
that a user makes has all of them from the start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, Type, TypeVar

if TYPE_CHECKING:
    from ._dwcp import Rest

L = TypeVar("L", bound="Lazy")

#: Where the core puts what makes the other fields, among the attributes of an object.
_REST = "_rest"


class _Object:
    """Has its attributes where any object has them."""


#: The attributes of an object as they are, without those that are still to be made.
_attributes: Callable[[object], Dict[str, Any]] = _Object.__dict__["__dict__"].__get__


class Lazy(_Object):
    """An object whose fields may still have to be made."""

    #: Names of the fields that may be missing.
    _late: Tuple[str, ...] = ()
    #: How many fields an object has from the start.
    _early: int = 0

    @property
    def __dict__(self) -> Dict[str, Any]:  # type: ignore[override]
        return _whole(self)

    def __getstate__(self) -> Dict[str, Any]:
        return dict(_whole(self))


def _whole(owner: Lazy) -> Dict[str, Any]:
    """The attributes of an object, with all its fields."""
    values = _attributes(owner)
    rest: Optional[Rest] = values.get(_REST)
    if rest is not None:
        for name, value in zip(owner._late, rest.fields()):
            # What somebody has set is his, and another thread may have been first.
            values.setdefault(name, value)
        values.pop(_REST, None)
    return values


class _Late:
    """A field that an object may not have yet. Python asks it only where the object has none."""

    __slots__ = ("_name", "_default")

    def __init__(self, name: str, default: object) -> None:
        self._name = name
        self._default = default

    def __get__(self, owner: Optional[Lazy], kind: Type[Lazy]) -> Any:
        if owner is not None:
            values = _whole(owner)
            if self._name in values:
                return values[self._name]
        if self._default is dataclasses.MISSING:
            raise AttributeError(f"{kind.__name__!r} has no attribute {self._name!r}")
        return self._default


def lazy(early: int) -> Callable[[Type[L]], Type[L]]:
    """Makes a dataclass one whose objects may have only so many of their first fields at the start."""

    def decorate(kind: Type[L]) -> Type[L]:
        # A dataclass, which its decorator sees to.
        late = dataclasses.fields(kind)[early:]  # type: ignore[arg-type]
        for field in late:
            setattr(kind, field.name, _Late(field.name, field.default))
        kind._late = tuple(field.name for field in late)
        kind._early = early
        return kind

    return decorate
