"""Servers of Triton's protocol that answer only to those who send a token, as behind a proxy."""

from __future__ import annotations

from typing import Any

import grpc

from .fake_triton import FakeTriton
from .ui_fakes import WholeModel

TOKEN = "Bearer abc.def-ghi"


class AsksForToken(FakeTriton):
    """Also keeps what it was sent.

    Attributes:
        refused: requests without the token.
        let_in: requests with it.
    """

    refused = 0
    let_in = 0

    def _require_token(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get("authorization") != TOKEN:
            self.refused += 1
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or a wrong one")
        self.let_in += 1

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_token(context)
        return super().ServerLive(request, context)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_token(context)
        return super().ServerMetadata(request, context)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_token(context)
        return super().ModelConfig(request, context)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_token(context)
        return super().ModelInfer(request, context)


class WholeModelWithToken(AsksForToken, WholeModel):
    """`painted_segment`, `painted_cam` and their slide models, for those with the token."""
