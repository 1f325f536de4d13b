"""What can go wrong, as one tree.

    TamisError
    ├── ConfigError         a recipe, an option or a policy that cannot be used
    │   └── PolicyError
    ├── DataError           rows that cannot become examples
    │   └── LeakError       the same text, or nearly, on both sides of a split
    ├── TeacherError        the teacher cannot be asked
    │   ├── AuthError       it refuses the key
    │   └── BudgetError     the next request would pass the budget
    ├── WeightsError        a model file that is missing, truncated or not what its checksum says
    ├── TrainingError       training that cannot start or go on
    ├── GateError           a student that does not reach what the recipe asks
    │   └── PromotionError  a successor that loses what the running model knows
    ├── BundleError         a bundle that must not be served
    ├── RemoteError         a server that computes for a bundle and does not
    ├── MissingExtraError   a package of another stage is not installed
    └── ServiceError        a request the service does not answer now
        ├── Overloaded      too much waits
        ├── TooLate         the caller's time is over
        └── Closing         the service is about to end

Every message is one sentence a person can act on: what, where, got and wanted, and the next step.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class TamisError(Exception):
    """Anything a user can mend; the command line prints it and exits with 2."""

    exit_code = 2


class ConfigError(TamisError):
    """A recipe or an option that cannot be used."""


class PolicyError(ConfigError):
    """A policy that cannot be used, or a label it does not know."""


class DataError(TamisError):
    """Rows that cannot become examples."""


class LeakError(DataError):
    """The same text, or nearly the same, stands on both sides of a split."""


class TeacherError(TamisError):
    """The teacher cannot be asked."""


class AuthError(TeacherError):
    """The teacher refuses the key."""


class BudgetError(TeacherError):
    """The next request would pass the budget."""


class WeightsError(TamisError):
    """A model file that is missing, truncated or not what its checksum says."""


class TrainingError(TamisError):
    """Training that cannot start or go on."""


class GateError(TamisError):
    """A student that does not reach what the recipe asks."""


class PromotionError(GateError):
    """A successor that loses what the running model knows; it is kept, and the exit code is 1."""

    exit_code = 1


class BundleError(TamisError):
    """A bundle that must not be served."""


class RemoteError(TamisError):
    """A server that computes for a bundle and does not answer, or not usably."""


class MissingExtraError(TamisError):
    """A package of another stage is not installed."""


class ServiceError(TamisError):
    """A request the service does not answer now."""


class Overloaded(ServiceError):
    """Too much waits.

    Args:
        retry_after: seconds in which what waits now is done.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            f"more texts wait than can be answered in time: send the request again in {retry_after:.1f} seconds"
        )
        self.retry_after = retry_after


class TooLate(ServiceError):
    """The answer was not there in time."""


class Closing(ServiceError):
    """Nothing more is taken."""


def need(module: str, extra: str) -> ModuleType:
    """Import `module`, or say in one sentence which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{module} is not installed: run `pip install 'tamis[{extra}]'`") from error
