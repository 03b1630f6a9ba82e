"""What the page itself can refuse. Knows no HTTP.

ClientError
└── PageError          base
    ├── AddressError   the page must not be opened there, or cannot be
    └── AskedError     what the browser sent does not fit
"""

from __future__ import annotations

from ..errors import ClientError


class PageError(ClientError):
    """Base of this folder's errors; the message is shown to people as it is."""


class AddressError(PageError):
    """The page must not be opened there, or cannot be."""


class AskedError(PageError):
    """What the browser sent does not fit: a model or slide that is not there, a number outside its range."""
