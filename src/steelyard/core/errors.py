"""Errors of broken input. Expected outcomes (`Reject`, `Infeasible`) are values, not exceptions."""


class SteelyardError(Exception):
    """Base of every error a user can cause; its text is one line that names the offending value."""


class SpecError(SteelyardError):
    """The spec file, or a value in it, cannot be used."""


class ProfileError(SteelyardError):
    """A profile is missing, incomplete or contradicts itself."""


class TraceError(SteelyardError):
    """An arrival trace cannot be read or used."""


class ModelError(SteelyardError):
    """A model cannot be loaded, or does not do what the spec says."""


class InputError(SteelyardError):
    """A request's input is not what the model takes; answered with 400. A user's class may raise it, too."""


class JournalError(SteelyardError):
    """A journal cannot be read or does not replay."""


def how_to_install(extra: str) -> str:
    """What to do where an extra is missing, for the end of an error's line; there is no release on PyPI."""
    return f"pip install '.[{extra}]' in a clone of Steelyard's repository"
