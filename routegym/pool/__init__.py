"""Arms, prices and the backends that answer for them."""

from routegym.pool.arms import TOKEN_KINDS, Arm, Price, PriceTable
from routegym.pool.backend import Backend, Request, Response

__all__ = ["TOKEN_KINDS", "Arm", "Backend", "Price", "PriceTable", "Request", "Response"]
