"""Errors a user can meet. Each also inherits the builtin that a caller would guess."""


class StanceError(Exception):
    """Base of all errors raised on purpose by this package."""


class InputError(StanceError, TypeError):
    """A value handed to the Python API has the wrong kind."""


class DataError(StanceError, ValueError):
    """A data file or article can't be used; the message names file, line and remedy."""


class LeakageError(DataError):
    """Test or validation material also stands in train."""


class ConfigError(StanceError, ValueError):
    """A setting is unknown or out of range."""


class BundleError(StanceError, ValueError):
    """A model folder is incomplete, altered, unsafe or of another kind."""


class MissingPackageError(StanceError, ImportError):
    """An optional package is not installed; the message holds the install command."""


class WorkerError(StanceError, RuntimeError):
    """A process that was at work died; the same command goes on."""


class StanceWarning(UserWarning):
    """Something the user should know about a result that was still given."""
