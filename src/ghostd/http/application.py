"""
The application: found by its name, imported, called if it is a factory, and looked at.

What its author did wrong is told in the author's own terms: an `ApplicationError` says
which name and why, and its cause has the frames of the author's code only.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from ghostd.errors import GhostError
from ghostd.hooks import describe
from ghostd.typed import Any
from ghostd.values import Value

_OURS = os.path.dirname(os.path.abspath(__file__))
_IMPORTERS = (os.path.dirname(importlib.__file__), "<frozen importlib")
ASGI_ARGUMENTS = 3
WSGI_ARGUMENTS = 2


class ApplicationError(GhostError):
    """
    The application could not be loaded, or did not come up; the text says why.

    What the application raised is its cause, with the frames of the application only.
    """

    needs_frames: bool = False


class Name(Value):
    """
    Where an application is found.

    Attributes:
        module: name of the module.
        attributes: what is looked up in it, one after another.
        called: it is a factory.
        args: what a factory is called with.
        kwargs: what a factory is called with by name.
    """

    module: str
    attributes: tuple[str, ...]
    called: bool = False
    args: tuple[object, ...] = ()
    kwargs: tuple[tuple[str, object], ...] = ()


def parse(text: str) -> Name | None:
    """Read ``module:attribute`` or ``module:factory("argument")``; None: neither."""
    module, colon, rest = text.partition(":")
    if not colon or not all(word.isidentifier() for word in module.split(".")):
        return None
    try:
        tree = ast.parse(rest.strip(), mode="eval").body
        args: tuple[object, ...] = ()
        kwargs: tuple[tuple[str, object], ...] = ()
        called = isinstance(tree, ast.Call)
        if isinstance(tree, ast.Call):
            args = tuple(ast.literal_eval(each) for each in tree.args)
            kwargs = tuple(
                (each.arg or "", ast.literal_eval(each.value)) for each in tree.keywords
            )
            tree = tree.func
    except (SyntaxError, ValueError):
        return None
    names: list[str] = []
    while isinstance(tree, ast.Attribute):
        names.insert(0, tree.attr)
        tree = tree.value
    if not isinstance(tree, ast.Name) or any(not name for name, _ in kwargs):
        return None
    return Name(module, (tree.id, *names), called, args, kwargs)


def find(text: str, folder: str, *, factory: bool) -> Any:
    """
    Import an application.

    Args:
        text: its name, see `parse`.
        folder: where its module is looked for first; it stays on ``sys.path``.
        factory: what is found is to be called.

    Raises:
        ApplicationError: it cannot be imported, or is not there.
    """
    name = parse(text)
    if name is None:
        raise ApplicationError(f"{text!r} is not 'module:attribute'")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: Any = _attempt(f"cannot import {text}", _import, name, folder)
    for attribute in name.attributes:
        try:
            found = getattr(found, attribute)
        except AttributeError:
            where = getattr(found, "__name__", type(found).__name__)
            error = ApplicationError(
                f"cannot import {text}: {where} has no {attribute!r}"
            )
            if file := getattr(found, "__file__", None):
                error.add_note(f"{where} is {file}")
            raise error from None
    if factory or name.called:
        if not callable(found):
            raise ApplicationError(f"{text} is no factory: it cannot be called")
        found = _attempt(
            f"factory {text} failed", found, *name.args, **dict(name.kwargs)
        )
    return found


def _import(name: Name, folder: str) -> Any:
    try:
        return importlib.import_module(name.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name.module == missing or name.module.startswith(f"{missing}."):
            error.add_note(f"It was looked for in {folder} and where Python looks.")
        raise


def _attempt(
    what: str, do: Callable[..., Any], *args: object, **kwargs: object
) -> object:
    """Run code of the author's; whatever it raises becomes an `ApplicationError`."""
    try:
        return do(*args, **kwargs)
    except GeneratorExit:
        raise
    except BaseException as error:
        # Also SystemExit: a module that calls sys.exit() must not look like a spirit
        # that is done.
        error.__traceback__ = authors(error.__traceback__)
        raise ApplicationError(f"{what}: {where(error)}") from error


def where(error: BaseException) -> str:
    """Say an exception in one line, with the place in the author's code."""
    said = describe(error).splitlines()[0]
    if isinstance(error, SyntaxError):
        return said  # it names file and line itself
    frames = traceback.extract_tb(authors(error.__traceback__))
    if not frames:
        return said
    return f"{said} ({frames[-1].filename}:{frames[-1].lineno})"


def authors(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of ours and of the import system."""
    if trace is None:
        return None
    rest = authors(trace.tb_next)
    file = trace.tb_frame.f_code.co_filename
    if file.startswith(_IMPORTERS) or file.startswith(_OURS + os.sep):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def interface_of(app: Any) -> str:
    """
    Tell whether an application is ``asgi`` or ``wsgi``.

    Raises:
        ApplicationError: it cannot be told.
    """
    inner = app
    while hasattr(inner, "func"):  # a partial
        inner = inner.func
    call = inner if inspect.isroutine(inner) else getattr(inner, "__call__", None)  # noqa: B004 - the method is wanted
    if not inspect.isclass(inner) and inspect.iscoroutinefunction(call):
        return "asgi"
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    places = [
        each
        for each in parameters
        if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]
    needed = [each for each in places if each.default is each.empty]
    if not inspect.isclass(inner):
        if len(needed) == ASGI_ARGUMENTS:
            return "asgi"
        if len(needed) <= WSGI_ARGUMENTS <= len(places):
            return "wsgi"
    error = ApplicationError(f"{app!r} looks like neither ASGI nor WSGI")
    error.add_note("If it is one, say interface='asgi' or 'wsgi'.")
    if not inspect.isclass(inner) and callable(inner) and not needed:
        error.add_note("If it is a factory, say factory=True, or write 'module:it()'.")
    raise error
