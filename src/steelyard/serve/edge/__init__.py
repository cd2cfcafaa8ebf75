"""The edge: the Open Inference Protocol over HTTP."""

from steelyard.serve.edge.http import EdgeApp, make_app
from steelyard.serve.edge.listen import HttpListener, ListenError, serve_http
from steelyard.serve.edge.logs import EventLog
from steelyard.serve.edge.malloc import keep_large_blocks
from steelyard.serve.edge.settings import EdgeSettings

__all__ = [
    "EdgeApp",
    "EdgeSettings",
    "EventLog",
    "HttpListener",
    "ListenError",
    "keep_large_blocks",
    "make_app",
    "serve_http",
]
