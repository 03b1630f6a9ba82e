"""What a call of a served model can end with. Knows no library.

ClientError
└── CallError
    ├── TilesError         the array is no batch of the model's tiles; nothing was sent (also a ValueError)
    ├── ImageFileError     the bytes are no image that can be segmented: damaged, too large, transparent (also a ValueError)
    ├── MissingModelError  no server has that entry
    ├── MismatchError      not a model of ours, or servers (or an answer) that do not fit the contract
    ├── AccessError        the server refuses this caller: certificate, header or a restricted protocol
    ├── TransientError     nothing is wrong with the request: send it again later
    │   ├── BusyError         every queue stayed full
    │   └── UnreachableError  no server answered
    ├── DeadlineError      the answer did not come within the caller's time (also a TimeoutError)
    ├── FailedError        the model failed on these tiles; sending them again would not help
    └── ClosedError        the client was closed
"""

from __future__ import annotations

from .errors import ClientError


class CallError(ClientError):
    """Base of what `TileClient` and `AsyncTileClient` raise."""


class TilesError(CallError, ValueError):
    """The array is no batch of the model's tiles."""


class ImageFileError(CallError, ValueError):
    """The bytes are no image that can be segmented."""


class MissingModelError(CallError):
    """No server has that entry."""


class MismatchError(CallError):
    """Not a model of ours, or servers (or an answer) that do not fit the contract."""


class AccessError(CallError):
    """The server refuses this caller."""


class TransientError(CallError):
    """Nothing is wrong with the request: send it again later."""


class BusyError(TransientError):
    """Every queue stayed full for as long as the client was patient."""


class UnreachableError(TransientError):
    """No server answered for as long as the client was patient."""


class DeadlineError(CallError, TimeoutError):
    """The answer did not come within the caller's time; what was sent is left to finish."""


class FailedError(CallError):
    """The model failed on these tiles; sending them again would not help."""


class ClosedError(CallError):
    """The client was closed, before the call or while it waited."""
